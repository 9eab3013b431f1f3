"""A store that has lost accepted tasks says so at its start; one that was only killed does not."""

import asyncio
import json
import os
import shutil
import signal
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path
from random import Random

import aiohttp
import pytest

from meshwright.core.errors import StoreFailed
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.sql.folder import FILE_NAME as MARK
from meshwright.engine.sql.sqlite import FILE_NAME
from tests.support.running_mesh import MESH, Errors, mesh, ready_url, start
from tests.support.sqlite_mesh import PATIENCE_SECONDS, Running, up

TASKS = 60
UP = [*MESH, "up", "--port", "0", "--data"]


async def killed(folder: Path) -> Path:
    """The data folder as a mesh leaves it that is killed after some tasks, its mark up to date."""
    async with up(folder / "first") as running:
        for number in range(TASKS):
            await running.submit("echo", f"{number} " * 500)
        await outcomes(running)
        await marked(folder / "first" / "data", await running.mesh.log.last_seq())
        return Path(shutil.copytree(folder / "first" / "data", folder / "data"))


async def outcomes(running: Running) -> None:
    page = await running.mesh.log.tasks(tenant_id="default", limit=1000)
    for task in page.items:
        await running.outcome(task.task_id)


async def marked(data: Path, seq: int) -> None:
    """Wait until the mark has come to a number of the log."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (data / MARK).exists() or json.loads((data / MARK).read_text())["seq"] < seq:
            await asyncio.sleep(0.01)


def half_the_wal(data: Path) -> None:
    wal = data / f"{FILE_NAME}-wal"
    os.truncate(wal, wal.stat().st_size // 2)


def five_bytes_of_the_wal(data: Path) -> None:
    wal = data / f"{FILE_NAME}-wal"
    content = bytearray(wal.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 5):
        content[place] ^= 0xFF
    wal.write_bytes(content)


def no_wal(data: Path) -> None:
    (data / f"{FILE_NAME}-wal").unlink()


def an_empty_file(data: Path) -> None:
    no_wal(data)
    (data / FILE_NAME).write_bytes(b"")


def no_file(data: Path) -> None:
    no_wal(data)
    (data / FILE_NAME).unlink()


DAMAGES = [half_the_wal, five_bytes_of_the_wal, no_wal, an_empty_file, no_file]


def without_shm(data: Path) -> None:
    """The index of the WAL is of the machine's run, and SQLite makes it anew."""
    (data / f"{FILE_NAME}-shm").unlink(missing_ok=True)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_store_that_lost_tasks_refuses_to_start(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    data = await killed(tmp_path)
    without_shm(data)
    damage(data)
    before = {path.name: path.read_bytes() for path in data.iterdir() if path.suffix != ".db-shm"}
    with pytest.raises(StoreFailed, match=r"lacks what was committed: [\d,]+ events \(seq \d+ to \d+\)"):
        async with up(tmp_path):
            pass
    done = await mesh("up", "--port", "0", "--data", str(data))
    assert (done.status, done.out) == (1, "")
    [line] = done.err.splitlines()
    assert f"of {TASKS} accepted tasks are gone" in line and "mesh up --accept-loss" in line
    kept = {name: (data / name).read_bytes() for name in before if name not in ("mesh.lock", "mesh.db-shm")}
    assert kept == {name: before[name] for name in kept}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_an_accepted_loss_is_an_event_and_is_asked_about_once(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    data = await killed(tmp_path)
    without_shm(data)
    damage(data)
    lost_until = json.loads((data / MARK).read_text())["seq"]
    async with up(tmp_path, accept_loss=True) as running:
        [event] = await running.mesh.log.query(EventFilter(event_type="store.loss_accepted"))
        assert event.payload["lost_until_seq"] == lost_until and event.payload["lost_events"] > 0
        assert event.payload["lost_tasks"] > 0
        assert event.seq == lost_until + 1
        assert (await running.ask("echo")).success
    async with up(tmp_path) as running:
        assert len(await running.mesh.log.query(EventFilter(event_type="store.loss_accepted"))) == 1
        assert (await running.ask("echo")).success


@pytest.mark.parametrize("content", [None, "", "{}", "\x00"])
async def test_missing_or_damaged_mark_beside_a_log_is_a_warning(
    tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    mark = tmp_path / "data" / MARK
    async with up(tmp_path) as running:
        assert mark.exists(), "there is none to miss after a kill"
        assert (await running.ask("echo")).success
    mark.unlink() if content is None else mark.write_text(content)
    async with up(tmp_path):
        [warning] = [text for text in caplog.messages if MARK in text]
        assert f"is {'missing' if content is None else 'damaged'}, and the log has" in warning
        assert mark.stat().st_size > 2, "the mark is made again at once"
    async with up(tmp_path):
        assert len([text for text in caplog.messages if MARK in text]) == 1


async def test_another_database_in_its_place_is_noticed(tmp_path: Path) -> None:
    data = await killed(tmp_path)
    async with up(tmp_path / "other") as running:
        for _ in range(2 * TASKS):
            await running.submit("echo")
        await outcomes(running)
    no_wal(data)
    without_shm(data)
    shutil.copy(tmp_path / "other" / "data" / FILE_NAME, data / FILE_NAME)
    with pytest.raises(StoreFailed, match="another database is in its place"):
        async with up(tmp_path):
            pass


async def test_events_after_a_loss_are_found_by_their_keys(tmp_path: Path) -> None:
    data = await killed(tmp_path)
    document = json.loads((data / MARK).read_text())
    (data / MARK).write_text(json.dumps({**document, "seq": document["seq"] + 5000}))
    async with up(tmp_path, accept_loss=True) as running:
        old = await running.mesh.log.query(EventFilter(event_type="task.accepted", limit=1000))
        for _ in range(600):  # more than a block of events
            await running.submit("echo")
        await outcomes(running)
        found = await running.mesh.log.query(EventFilter(event_type="task.accepted", limit=1000))
    assert len(old) == TASKS and len(found) == TASKS + 600
    async with up(tmp_path) as running:
        again = await running.mesh.log.query(EventFilter(event_type="task.accepted", limit=1000))
    assert [event.seq for event in again] == [event.seq for event in found]


@pytest.mark.parametrize("text", ["", '{"store": "', "[]", '{"store": 1, "seq": "x", "tasks": 0}'])
async def test_a_mark_that_cannot_be_read_raises_no_alarm(tmp_path: Path, text: str) -> None:
    data = await killed(tmp_path)
    (data / MARK).write_text(text)
    async with up(tmp_path) as running:
        assert (await running.ask("echo")).success


async def test_a_folder_of_an_older_version_opens_and_is_marked(tmp_path: Path) -> None:
    data = await killed(tmp_path)
    (data / MARK).unlink()
    async with up(tmp_path) as running:
        assert (await running.ask("echo")).success
    assert json.loads((data / MARK).read_text())["tasks"] == TASKS + 1


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_kill_9_at_any_moment_raises_no_alarm(tmp_path: Path, durability: str) -> None:
    chances = Random(f"{os.environ['MESH_TEST_SEED']} {durability}")
    marks = []
    for _ in range(4):
        process = await start(
            [*UP, str(tmp_path / "data")], {"MESH_DURABILITY": durability}, stdout=PIPE, stderr=PIPE
        )
        assert process.stdout is not None and process.stderr is not None
        url = await ready_url(process.stdout, Errors(process.stderr))
        async with aiohttp.ClientSession() as session:
            done = asyncio.Event()
            asking = asyncio.create_task(keep_asking(session, url, done))
            await done.wait()
            await asyncio.sleep(chances.uniform(0, 1.5))  # the moment of the kill, not a wait for something
            process.send_signal(signal.SIGKILL)
            await process.wait()
            asking.cancel()
            await asyncio.wait([asking])
        if (tmp_path / "data" / MARK).exists():
            marks.append(json.loads((tmp_path / "data" / MARK).read_text())["seq"])
    assert marks == sorted(marks)
    read = await mesh("tasks", "--data", str(tmp_path / "data"))
    assert read.status == 0, read.err


async def keep_asking(session: aiohttp.ClientSession, url: str, done: asyncio.Event) -> None:
    while True:
        request = {"agent_id": "simple-agent", "payload": {"text": "Hello"}}
        async with session.post(f"{url}/tasks", json=request) as response:
            assert response.status == 202
        done.set()

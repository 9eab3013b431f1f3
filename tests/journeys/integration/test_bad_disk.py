"""A disk that is full, read-only, damaged or taken: a clear refusal, and nothing lost that was accepted."""

import asyncio
import fcntl
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path

import pytest

from meshwright.agents.prompts import PromptSources
from meshwright.core.errors import HostError, StoreFailed, StoreTooNew, StoreTooOld
from meshwright.core.messages import TaskRequest
from meshwright.engine.sql import writer as writing
from meshwright.engine.sql.database import Session
from meshwright.engine.sql.folder import write_private
from meshwright.engine.sql.sqlite import FILE_NAME, SqliteDatabase
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.parts.proving.oracle import complaints
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import PlannedTask
from tests.support.faults.node import Job
from tests.support.faults.nodes import KILLED, Nodes
from tests.support.sqlite_mesh import PATIENCE_SECONDS, ROOT, build, evidence_of, up


def no_more_room(connection: sqlite3.Connection) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages + 20}")


def no_larger_files(connection: sqlite3.Connection) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = Path(connection.execute("PRAGMA database_list").fetchone()[2])
    size = path.with_name(f"{path.name}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, hard))


def no_writing(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only=ON")


def any_size() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.fixture
def limited() -> Iterator[None]:
    """No limit of file sizes outlives the test."""
    yield
    any_size()


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("writer", ["thread", "process"])
@pytest.mark.parametrize("worsen", [no_more_room, no_larger_files, no_writing])
async def test_a_disk_that_takes_no_more_refuses_clearly_and_loses_nothing(
    tmp_path: Path, worsen: Callable[[sqlite3.Connection], None], writer: str
) -> None:
    accepted = Records(tmp_path).accepted
    async with up(tmp_path, writer=writer) as running:
        for number in range(5):
            accepted.write([number, await running.submit("gate", thread_id="one" if number % 2 else None)])
        await running.event("task.started")
        with suppress(StoreFailed):  # of a process, whose group ends with a row of its own
            await running.database.write(worsen)
        with pytest.raises(StoreFailed, match=f"Cannot write to .*{FILE_NAME}: .*Make room") as refusal:
            for number in range(5, 300):
                accepted.write([number, await running.submit("gate", "x" * 10_000)])
        assert "\n" not in str(refusal.value)
        with pytest.raises(StoreFailed):
            await running.submit("echo")
    any_size()
    async with up(tmp_path) as running:
        running.gate.set()
        outcomes = [await running.outcome(task_id) for _, task_id in accepted.read()]
    assert {outcome.status for outcome in outcomes} == {"succeeded"}
    assert complaints(await evidence_of(tmp_path)) == []


@pytest.mark.parametrize("writer", ["thread", "process"])
async def test_a_mesh_whose_disk_fails_says_so_to_those_who_wait_and_still_stops(
    tmp_path: Path, writer: str
) -> None:
    async with up(tmp_path, writer=writer) as running:
        task_id = await running.submit("gate")
        waiting = asyncio.create_task(running.outcome(task_id))
        await running.event("task.started", task_id)
        with suppress(StoreFailed):  # as above
            await running.database.write(no_writing)
        with pytest.raises(StoreFailed):
            await running.submit("echo")
        for name in ("one", "two", "three"):  # there is none of them, which the mesh would like to tell
            running.mesh.get(PromptSources).resolve(name)
            await passes_of_the_loop(100)
        assert not running.mesh.ready
        with pytest.raises(StoreFailed):
            await waiting


async def test_the_log_promises_nothing_of_a_task_that_was_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with up(tmp_path) as running:
        await running.ask("echo")
        await running.database.write(no_writing)
        with pytest.raises(StoreFailed):
            await running.submit("echo")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while running.mesh.ready:
                await asyncio.sleep(0.01)
    assert "stops here" not in caplog.text, "its work began, though it was not accepted"
    assert "goes on at the next start" not in caplog.text


@pytest.mark.usefixtures("limited")
def test_a_file_that_finds_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    write_private(tmp_path / "one.json", "before")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    with pytest.raises(OSError, match="too large"):
        write_private(tmp_path / "one.json", "after")
    any_size()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("one.json", "before")]


@pytest.mark.parametrize(("steady_seconds", "pauses"), [(3600, ["1", "2"]), (0, ["1", "1"])])
async def test_a_mesh_goes_on_when_the_process_that_writes_dies(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    steady_seconds: float,
    pauses: Sequence[str],
) -> None:
    """The pause before another process grows, until one has worked for long."""
    monkeypatch.setattr(writing, "STEADY_SECONDS", steady_seconds)
    async with up(tmp_path, writer="process") as running:
        task_id = await running.submit("gate")
        await running.event("task.started", task_id)
        assert isinstance(running.database, SqliteDatabase)
        for _ in range(2):
            os.kill(running.database.writer_pid, signal.SIGKILL)
            assert (await running.ask("echo", "still here")).status == "succeeded"
            async with asyncio.timeout(PATIENCE_SECONDS):
                while running.database.writer_pid == os.getpid():
                    await asyncio.sleep(0.01)
        running.gate.set()
        assert (await running.outcome(task_id)).status == "succeeded"
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    found = [re.findall(r"has ended: .* starts another in (\d) s", line) for line in said]
    assert found == [[pause] for pause in pauses]


@pytest.mark.parametrize("is_written", [True, False])
async def test_a_group_that_the_process_may_have_written_is_written_once(
    tmp_path: Path, *, is_written: bool
) -> None:
    """It is killed with the answer in its pipe, or (stopped) before it has read the group."""
    database = SqliteDatabase(tmp_path)
    await database.open()
    await database.write_apart()
    pid = database.writer_pid
    if not is_written:
        os.kill(pid, signal.SIGSTOP)
    writing = asyncio.create_task(database.write(numbered))
    await asyncio.sleep(0)  # it is sent
    while is_written and not await asyncio.to_thread(numbers_in, database):
        pass
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await writing == "1"
        assert await database.write(numbered) == "2"
    await database.close()


def numbered(session: Session) -> str:
    """One more row, and how many there are."""
    count = session.execute("SELECT count(*) FROM meta WHERE name LIKE 'number %'").fetchone()[0] + 1
    session.execute("INSERT INTO meta VALUES (?, '')", (f"number {count}",))
    return str(count)


def numbers_in(database: SqliteDatabase) -> int:
    with closing(database.connect_reader()) as session:
        return session.execute("SELECT count(*) FROM meta WHERE name LIKE 'number %'").fetchone()[0]


async def test_the_list_of_tasks_is_up_to_date_where_a_process_writes(tmp_path: Path) -> None:
    async with up(tmp_path, writer="process") as running:
        for number in range(30):
            await running.ask("echo", str(number))
            listed = (await running.mesh.log.tasks(tenant_id="default", limit=1000)).items
            assert [task.status for task in listed] == ["succeeded"] * (number + 1)


def test_a_process_that_writes_ends_with_its_mesh(tmp_path: Path, nodes: Nodes) -> None:
    job = Job(str(tmp_path), [PlannedTask("hang 1", "clerk")], settings={"writer": "process"})
    lines = nodes.start(job)
    assert next(lines) == "ready"
    writer = Path(f"/proc/{nodes.writer}/stat")
    assert writer.exists()
    nodes.kill()
    assert list(lines) == [f"exit {KILLED}"]
    ends = time.monotonic() + PATIENCE_SECONDS
    while writer.exists() and writer.read_text().rpartition(")")[2].split()[0] != "Z":  # nobody may reap it
        assert time.monotonic() < ends, "it is still there"
        time.sleep(0.01)


async def passes_of_the_loop(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_file_that_is_cut_short_under_a_running_mesh_makes_nobody_wait_for_ever(
    tmp_path: Path,
) -> None:
    request = TaskRequest(agent_id="echo", payload={"text": "Hello"})
    async with up(tmp_path) as running:
        for number in range(100):
            await running.mesh.get(Tasks).submit(request, idempotency_key=str(number))
        task_id = (await running.mesh.get(Tasks).submit(request, idempotency_key="old")).task_id
        await running.outcome(task_id)
    async with up(tmp_path) as running:
        os.truncate(tmp_path / "data" / FILE_NAME, 8192)
        with pytest.raises(StoreFailed, match=FILE_NAME):
            await running.mesh.get(Tasks).task(task_id)
        with pytest.raises(StoreFailed, match=FILE_NAME):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await running.mesh.get(Tasks).submit(request, idempotency_key="old")
        assert not running.mesh.ready


@pytest.mark.parametrize("writer", ["thread", "process"])
async def test_a_stop_leaves_everything_in_one_file_and_its_mark(tmp_path: Path, writer: str) -> None:
    async with up(tmp_path, writer=writer) as running:
        await running.ask("echo")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        ".gitignore",
        "audit.heads",
        "audit.key",
        FILE_NAME,
        "mesh.lock",
        "mesh.mark",
    }


async def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        for number in range(50):
            await running.submit("gate", f"{number} " * 500)
    path = tmp_path / "data" / FILE_NAME
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xaa" * (len(content) - 4096))
    status, err = await mesh_up(tmp_path / "data")
    assert status == 1
    [line] = err.splitlines()
    assert FILE_NAME in line and "malformed; restore it from a copy" in line


@pytest.mark.parametrize("part", [b"tableheads", b"tablerecords", b"indexheads"])
async def test_a_damaged_schema_is_refused_in_one_line(tmp_path: Path, part: bytes) -> None:
    async with up(tmp_path) as running:
        await running.ask("echo")
    path = tmp_path / "data" / FILE_NAME
    content = bytearray(path.read_bytes())
    name = content.index(part) + len("table")
    content[name : name + 5] = b"\xb4" * 5  # SQLite quotes the name, and it is no text
    path.write_bytes(content)
    status, err = await mesh_up(tmp_path / "data")
    assert status == 1
    [line] = err.splitlines()
    assert FILE_NAME in line and "restore it from a copy" in line


@pytest.mark.parametrize(
    ("was", "damaged"), [(b"event_type", b"event_tXpe"), (b"echo/default", b"ech\xb4/default")]
)
async def test_damaged_names_and_text_are_refused_as_damage(
    tmp_path: Path, was: bytes, damaged: bytes
) -> None:
    async with up(tmp_path) as running:
        await running.submit("gate")
        await running.ask("echo")
    path = tmp_path / "data" / FILE_NAME
    path.write_bytes(path.read_bytes().replace(was, damaged))
    status, err = await mesh_up(tmp_path / "data")
    assert status == 1
    [line] = err.splitlines()
    assert f"{FILE_NAME} is damaged" in line and "restore it from a copy" in line
    assert "make room" not in line


async def test_a_folder_that_cannot_be_written_is_refused_in_one_line() -> None:
    status, err = await mesh_up(Path("/proc/mesh"))
    assert status == 1
    [line] = err.splitlines()
    assert "/proc/mesh" in line


async def test_a_start_on_a_full_disk_is_refused_in_one_line(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        await running.ask("echo")
    status, err = await mesh_up(tmp_path / "data", "prlimit", "--fsize=0")
    assert status == 1
    assert re.fullmatch(
        r"mesh: cannot write to \S+: .*make room.*start again: accepted tasks .*\n", err, re.I
    )


@pytest.mark.parametrize(
    ("version", "error", "remedy"),
    [(99, StoreTooNew, "upgrade Meshwright"), (14, StoreTooOld, "delete it, or choose another database")],
)
async def test_a_file_of_another_version_is_refused_in_one_line_and_left_alone(
    tmp_path: Path, version: int, error: type[HostError], remedy: str
) -> None:
    async with up(tmp_path) as running:
        await running.ask("echo")
    set_version(tmp_path, version)
    before = (tmp_path / "data" / FILE_NAME).read_bytes()
    with pytest.raises(error, match=f"has schema version {version}, this Meshwright"):
        await build(tmp_path).mesh.start()
    status, err = await mesh_up(tmp_path / "data")
    assert status == 1
    [line] = err.splitlines()
    assert remedy in line
    assert (tmp_path / "data" / FILE_NAME).read_bytes() == before


async def test_a_mesh_that_could_not_start_leaves_the_folder_free(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        await running.ask("echo")
    known = set_version(tmp_path, 99)
    refused = build(tmp_path)
    with pytest.raises(StoreTooNew):
        await refused.mesh.start()
    set_version(tmp_path, known)
    async with up(tmp_path) as running:
        assert (await running.ask("echo")).success


def set_version(folder: Path, version: int) -> int:
    connection = sqlite3.connect(folder / "data" / FILE_NAME)
    mesh = "component_versions WHERE component = 'mesh'"
    (before,) = connection.execute(f"SELECT version FROM {mesh}").fetchone()
    connection.execute("UPDATE component_versions SET version = ? WHERE component = 'mesh'", (version,))
    connection.commit()
    connection.close()
    return before


def held_up(session: Session, until: threading.Event) -> None:
    until.wait(PATIENCE_SECONDS)


def told(session: Session, value: Decimal) -> Decimal:
    return value + 1


async def test_what_waited_for_the_thread_is_written_by_the_process(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path)
    await database.open()
    release = threading.Event()
    first = asyncio.create_task(database.write(held_up, release))
    await asyncio.sleep(0)
    second = asyncio.create_task(database.write(told, Decimal(1)))
    await asyncio.sleep(0)
    await database.write_apart()
    release.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert [await first, await second] == [None, 2]
    await database.close()


class _Odd(Exception):
    """Cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def refused(session: Session) -> None:
    raise _Odd("this", "that")


async def test_error_that_cannot_be_unpickled_fails_its_own_write_alone(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path)
    await database.open()
    await database.write_apart()
    odd, other = asyncio.create_task(database.write(refused)), asyncio.create_task(database.write(numbered))
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(RuntimeError, match="_Odd: this and that"):
            await odd
        assert await other == "1"
    await database.close()


async def test_a_start_waits_for_the_writer_of_a_mesh_that_is_gone(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "data").mkdir(mode=0o700)
    with (tmp_path / "data" / "mesh.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(gone.pid))
        lock.flush()
        writer_ends = threading.Timer(1.5, fcntl.flock, (lock, fcntl.LOCK_UN))  # later than for one that runs
        writer_ends.start()
        async with up(tmp_path) as running:
            assert (await running.ask("echo")).success
        writer_ends.join()


async def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / FILE_NAME).write_text("to be or not to be " * 1000)
    status, err = await mesh_up(tmp_path / "data")
    assert status == 1
    [line] = err.splitlines()
    assert "file is not a database; restore it from a copy" in line


async def mesh_up(data: Path, *within: str) -> tuple[int | None, str]:
    """Run `mesh up` where it cannot start: its exit status, and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(*within, sys.executable, "-m", "meshwright.cli", "up", "--port", "0", "--data", str(data)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert out == b""
    return process.returncode, err.decode()

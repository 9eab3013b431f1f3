"""Backup and restore of an embedded mesh, also under load; restored work waits to be released."""

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest

from meshwright.core.errors import StoreFailed
from meshwright.core.messages import Caller
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.verify import verify
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.parts.maintenance.backup import restore, write_backup
from meshwright.parts.maintenance.operations import Maintenance
from meshwright.parts.proving.oracle import complaints
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import PlannedTask
from tests.support.faults.evidence import gather
from tests.support.faults.node import Job
from tests.support.faults.nodes import Nodes
from tests.support.sqlite_mesh import Running, up

SHAPES = (("plain", "clerk"), ("find", "finder"), ("ask", "manager"))
PLAN = [PlannedTask(f"{shape} {number}", agent) for number in range(35) for shape, agent in SHAPES]
BACKUPS_AFTER = (5, 50)
"""After how many ended tasks of the plan a backup begins."""
OPERATOR = Caller(all_tenants=True, roles=frozenset({"operator"}))


async def began(running: Running) -> set[str | None]:
    return {event.task_id for event in await running.mesh.log.query(EventFilter(event_type="task.started"))}


def test_backups_under_load_lack_nothing_that_was_accepted_before_them(nodes: Nodes, tmp_path: Path) -> None:
    source = tmp_path / "source"
    copies: list[Path] = []
    ended = 0
    for line in nodes.start(Job(str(source), PLAN, settings={"writer": "process"})):
        ended += line.startswith("ended")
        if line.startswith("ended") and ended in BACKUPS_AFTER:
            copies.append(tmp_path / f"after {ended}")
            copies[-1].mkdir()
            for books in source.glob("*.jsonl"):  # before the backup: it has all of that
                shutil.copy(books, copies[-1])
            write_backup(source / "data", copies[-1] / "backup")
            shutil.copy(source / "calls.jsonl", copies[-1])
    assert len(copies) == len(BACKUPS_AFTER)
    for copy in copies:
        backup = restore(copy / "backup", copy / "data")
        accepted = len(Records(copy).accepted.read())
        assert 0 < accepted <= backup.tasks
        assert verify(SqliteDatabase(copy / "data")).faults == []
        released = {"maintenance": {"hold": False}}
        assert nodes.run(Job(str(copy), PLAN, settings=released)) == 0
        found = complaints(asyncio.run(gather(copy, kills=1)))
        again = ("model calls", " was called ")  # those under way, which is no second claim of their step
        assert [text for text in found if not any(words in text for words in again)] == []


async def test_a_restored_mesh_begins_nothing_before_it_is_released(tmp_path: Path) -> None:
    async with up(tmp_path / "first") as running:
        ended = (await running.ask("echo")).task_id
        task_id = await running.submit("gate")
        await running.event("task.started", task_id)
        await asyncio.to_thread(write_backup, running.database.folder, tmp_path / "backup")
    backup = restore(tmp_path / "backup", tmp_path / "second" / "data")
    assert (backup.tasks, backup.open_tasks) == (2, 1)
    async with up(tmp_path / "second") as running:
        held = await running.event("mesh.held")
        assert (held.fields["open_tasks"], running.mesh.state) == (1, "held")
        new = await running.submit("echo")
        assert running.mesh.takes_tasks and new not in await began(running)
    async with up(tmp_path / "second") as running:
        running.gate.set()
        assert (running.mesh.state, await began(running)) == ("held", {ended, task_id})
        assert (await running.mesh.get(Maintenance).release(OPERATOR)).state == "working"
        assert [(await running.outcome(name)).status for name in (task_id, new)] == ["succeeded"] * 2
    async with up(tmp_path / "second") as running:
        assert running.mesh.state == "working"
        assert (await running.mesh.get(Tasks).task(ended)).status == "succeeded"


async def test_files_that_are_there_are_neither_overwritten_nor_mixed(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        await running.ask("echo")
        data, file = running.database.folder, tmp_path / "backup"
        written = write_backup(data, file)
        assert (file.stat().st_mode & 0o777, file.stat().st_size) == (0o600, written.bytes)
        before = file.read_bytes()
        with pytest.raises(StoreFailed, match="overwrites nothing"):
            write_backup(data, file)
        assert file.read_bytes() == before and {*tmp_path.iterdir()} == {data, file}
        with pytest.raises(StoreFailed, match="is not empty"):
            restore(file, data)
    with pytest.raises(StoreFailed, match=r"has no mesh\.db"):
        write_backup(tmp_path / "nowhere", tmp_path / "other")
    for damage in (b"no database", before[: len(before) // 2]):
        (tmp_path / "damaged").write_bytes(damage)
        with pytest.raises(StoreFailed, match=r"no backup|is damaged"):
            restore(tmp_path / "damaged", tmp_path / "restored")
    shutil.copy(file, tmp_path / "foreign")
    with sqlite3.connect(tmp_path / "foreign") as other:
        other.execute("INSERT INTO backup VALUES ('../escaped', 'text')")
    restore(tmp_path / "foreign", tmp_path / "of another")
    assert not (tmp_path / "escaped").exists()
    for note, problem in (("{", "truncated"), ('{"tasks": "many"}', r"\$\.tasks"), (b"\xff", "about.json")):
        shutil.copy(file, tmp_path / "noted")
        with sqlite3.connect(tmp_path / "noted") as other:
            other.execute("UPDATE backup SET content = ? WHERE name = 'about.json'", (note,))
        with pytest.raises(StoreFailed, match=rf"noted is damaged: its note .*{problem}"):
            restore(tmp_path / "noted", tmp_path / "restored")
    with sqlite3.connect(tmp_path / "plain") as other:
        other.execute("CREATE TABLE some (value)")
    with pytest.raises(StoreFailed, match="no backup"):
        restore(tmp_path / "plain", tmp_path / "restored")
    assert not (tmp_path / "restored" / "mesh.db").exists()


async def test_a_backup_is_of_one_moment_opens_its_secrets_and_verifies(tmp_path: Path) -> None:
    async with up(tmp_path / "first", audit={"head_rows": 1, "head_seconds": 0.05}) as running:
        secret = running.mesh.cipher.encrypt("a password")
        await running.event("audit.head")
        loop, folder = asyncio.get_running_loop(), running.database.folder

        async def go_on() -> None:
            seq = (await running.ask("echo")) and await running.mesh.log.last_seq()
            async for _ in running.mesh.log.tail(EventFilter(event_type="audit.head", after_seq=seq)):
                return

        def copied(pages: int, of: int) -> None:
            asyncio.run_coroutine_threadsafe(go_on(), loop).result()

        written = await asyncio.to_thread(write_backup, folder, tmp_path / "backup", copied)
        assert (written.backup.tasks, await running.mesh.log.last_seq() > written.backup.last_seq) == (
            0,
            True,
        )
    folder = tmp_path / "second" / "data"
    restore(tmp_path / "backup", folder)
    found = verify(SqliteDatabase(folder))
    assert (found.faults, found.heads > 0, found.last) == ([], True, written.backup.last_seq)
    async with up(tmp_path / "second", maintenance={"hold": False}) as running:
        assert running.mesh.cipher.decrypt(secret) == "a password"
        await running.ask("echo")
    assert verify(SqliteDatabase(folder)).faults == []
    with sqlite3.connect(folder / "mesh.db") as store:
        assert not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'backup'").fetchall()

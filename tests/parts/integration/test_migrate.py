"""A stopped mesh goes from SQLite to PostgreSQL and back, with all that is under way in it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Client, Run
from meshwright.cli.app import run as run_mesh
from meshwright.core.clock import SystemClock
from meshwright.core.errors import InvalidInput, StoreFailed, StoreLocked, StoreMoved, StoreTooNew
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.verify import verify
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.engine.sql.database import Database, Session
from meshwright.engine.sql.meta import HELD, read_note, write_note
from meshwright.engine.sql.postgres import PostgresDatabase
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.money.keys import Keys
from meshwright.parts.maintenance.migrate import migrate, reopen
from tests.support.fake_provider import FakeProvider
from tests.support.postgres import PASSWORD, Address, Location
from tests.support.settings import Settings

PARTS = (
    """
CREATE TABLE pagers (n INTEGER PRIMARY KEY, number TEXT, rings BLOB, at DOUBLE PRECISION);
""",
    """
CREATE TABLE pagers (n SERIAL PRIMARY KEY, number TEXT, rings BYTEA, at DOUBLE PRECISION);
""",
)
PATIENCE_SECONDS = 60
ENDED_TYPES = {"task.succeeded", "task.failed"}


class Later(SystemClock):
    """The clock of the machine, some hours on."""

    def __init__(self, hours: float) -> None:
        self.hours = hours

    def now(self) -> datetime:
        return super().now() + timedelta(hours=self.hours)


class Worker(Agent):
    """Asks its model, waits for something, and asks again."""

    agent_id = "worker"
    capabilities = (Capability("working"),)
    delegates_to = ("helper",)
    prompt_text = "Work."

    async def run(self, run: Run) -> str:
        text = run.task.text
        await run.ask(f"{text}, first")
        if text == "timer":
            await run.sleep(hours=1)
        elif text == "parent":
            await run.delegate("helper", "child")
        elif text != "money":
            await run.remember(f"The {text} likes marzipan.", "global")
            text += await run.ask_person("Which color?")
        await run.ask(f"{text}, second")
        return text


class Helper(Worker):
    """The same for another worker."""

    agent_id = "helper"
    delegates_to = ()


class Running:
    """A mesh at work, on either store."""

    def __init__(self, mesh: Mesh, client: Client) -> None:
        self.mesh, self.client = mesh, client

    async def submit(self, text: str, **fields: Any) -> str:
        fields = {"agent_id": "worker", "idempotency_key": text, **fields}
        return (await self.client.submit(text=text, **fields)).task_id

    async def waits(self, task_id: str) -> dict[str, Any]:
        """The payload of the last event by which a task began to wait, as soon as there is one."""
        wanted = EventFilter(task_id=task_id, after_seq=0)
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for event in self.mesh.log.tail(wanted):
                assert event.event_type not in ENDED_TYPES, event.fields["error"]
                if event.event_type == "task.waiting":
                    return event.fields
        raise AssertionError

    async def answer(self, task_id: str, text: str) -> None:
        [question] = [item for item in await self.client.inbox() if item.task_id == task_id]
        await self.client.answer(question, text)

    async def outcome(self, task_id: str) -> Any:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await self.client.outcome(task_id)).text


def settings_of(folder: Path, location: Location, provider: str = "http://127.0.0.1:9") -> Any:
    database = None if isinstance(location, Path) else location
    return Settings(
        data_dir=location if isinstance(location, Path) else folder,
        database=database,
        model="http",
        litellm_base_url=provider,
        default_price={"input": "10", "output": "20"},
        admin_token="the-admin-token-of-this-test-is-long",
        max_chain=8,
    )


@asynccontextmanager
async def up(
    folder: Path, location: Location, provider: FakeProvider, hours: float = 0
) -> AsyncIterator[Running]:
    settings = settings_of(folder, location, provider.url)
    mesh = build_mesh(settings, agents=[Worker, Helper], clock=Later(hours))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await mesh.start()
    try:
        async with Client.local(mesh) as client:
            yield Running(mesh, client)
    finally:
        await mesh.stop(drain_seconds=0)


def database_of(folder: Path, location: Location) -> Database:
    return build_mesh(settings_of(folder, location), agents=[]).database


async def moved(folder: Path, source: Location, target: Location) -> Any:
    return await migrate(database_of(folder, source), database_of(folder, target))


def asked(provider: FakeProvider) -> list[str]:
    return sorted(call.body["messages"][-1]["content"] for call in provider.calls)


async def test_tasks_in_the_middle_of_their_work_go_on_at_the_other_store(
    tmp_path: Path, postgres_url: Address
) -> None:
    data, first, second = tmp_path / "front", tmp_path / "first", tmp_path / "second"
    async with FakeProvider() as provider:
        async with up(data, first, provider) as running:
            tasks = {text: await running.submit(text) for text in ("person", "timer", "parent", "later")}
            tasks["money"] = await running.submit("money", budget_usd="0.0001", on_empty="wait")
            waits = {text: (await running.waits(task_id))["kind"] for text, task_id in tasks.items()}
            assert waits == {
                "person": "person", "timer": "timer", "parent": "task", "later": "person", "money": "money"
            }  # fmt: skip
            [child] = [task.task_id for task in await running.client.tasks() if task.parent_task_id]
            await running.waits(child)
            key = await running.mesh.get(Keys).create("alice", key_id="hers")
            schedules = running.client.resource("schedules")
            task = {"agent_id": "worker", "payload": {"text": "scheduled"}}
            await schedules.create(id="daily", cron="0 7 29 2 *", task=task)
            secret = running.mesh.cipher.encrypt("a password")
            seq = await running.client.last_seq()
        found = await moved(data, first, postgres_url)
        assert (found.tasks, found.open_tasks, found.last_seq >= seq) == (6, 6, True)
        once = ["child, first", "later, first", "parent, first", "person, first", "timer, first"]
        assert asked(provider) == once
        async with up(data, postgres_url, provider, hours=2) as running:
            assert await running.submit("person") == tasks["person"]  # its key is known
            await running.answer(tasks["person"], " red")
            assert await running.outcome(tasks["person"]) == "person red"
            assert await running.outcome(tasks["timer"]) == "timer"
            assert (await running.mesh.get(Keys).find("hers")).agent_id == "alice"
            assert running.mesh.cipher.decrypt(secret) == "a password"
            assert [item["id"] for item in await running.client.resource("schedules").list()] == ["daily"]
            assert (await running.client.verify_store())["faults"] == []
            assert (await running.client.verify_audit()).faults == []
        found = await moved(data, postgres_url, second)
        assert (found.tasks, found.open_tasks) == (6, 4)
        async with up(data, second, provider, hours=2) as running:
            await running.client.raise_budget("1", task_id=tasks["money"])
            assert await running.outcome(tasks["money"]) == "money"
            for task_id, text in ((child, "child"), (tasks["later"], "later")):
                await running.answer(task_id, " blue")
                assert await running.outcome(task_id) == f"{text} blue"
            assert await running.outcome(tasks["parent"]) == "parent"
            assert (await running.client.verify_store())["faults"] == []
            memories = await running.mesh.database.read(memory_texts)
            assert memories == [f"The {text} likes marzipan." for text in ("child", "later", "person")]
            await running.client.resource("schedules").do("run", "daily")
        again = [text for text in asked(provider) if not text.startswith("scheduled")]
        ends = ("child blue", "later blue", "money", "parent", "person red", "timer")
        assert again == sorted([*once, "money, first", *(f"{text}, second" for text in ends)])
    assert verify(SqliteDatabase(second)).faults == [] and key.key


def memory_texts(session: Session) -> list[str]:
    query = "SELECT memories.text FROM memory_text JOIN memories ON memories.n = memory_text.rowid"
    rows = session.execute(f"{query} WHERE memory_text MATCH 'marzipan' ORDER BY memories.text").fetchall()
    return [text for (text,) in rows]


# What else a database may have


def with_parts(folder: Path, location: Location) -> Database:
    """A database with a table of a part that nobody here knows."""
    steps = folder / "steps"
    steps.mkdir(exist_ok=True)
    for dialect, script in zip(("sqlite", "postgres"), PARTS, strict=True):
        (steps / f"0001_pagers.{dialect}.sql").write_text(script)
    database = plain(folder, location)
    database.migrate("pager", steps)
    return database


def plain(folder: Path, location: Location) -> Database:
    return SqliteDatabase(location) if isinstance(location, Path) else PostgresDatabase(location, folder)


def add_pager(session: Session, number: str) -> None:
    session.execute("INSERT INTO pagers (number, rings, at) VALUES (?, ?, ?)", (number, b"\0\xff", 1.5))


def pagers(session: Session) -> list[Any]:
    return session.execute("SELECT n, number, rings, at FROM pagers ORDER BY n").fetchall()


def add_event(session: Session, log: EventLog) -> None:
    now = datetime.now(UTC)
    log.insert(session, [Event(id=new_id(), event_type="app.rang", topic="app.pagers", time=now, payload={})])


async def filled(database: Database, *numbers: str) -> list[Any]:
    await database.open()
    try:
        await database.write(add_event, EventLog(database))
        for number in numbers:
            await database.write(add_pager, number)
        return await database.read(pagers) if numbers else []
    finally:
        await database.close()


async def test_tables_of_parts_go_along_unnamed(tmp_path: Path, postgres_url: Address) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert len(await filled(with_parts(tmp_path, first), "1", "2")) == 2
    with pytest.raises(StoreFailed, match="has a table pagers that no part of this mesh keeps"):
        await migrate(plain(tmp_path, first), plain(tmp_path, postgres_url))
    await migrate(with_parts(tmp_path, first), with_parts(tmp_path, postgres_url))
    there = await filled(with_parts(tmp_path, postgres_url), "3")
    assert there == [(1, "1", b"\0\xff", 1.5), (2, "2", b"\0\xff", 1.5), (3, "3", b"\0\xff", 1.5)]
    await migrate(with_parts(tmp_path, postgres_url), with_parts(tmp_path, second))
    assert (await filled(with_parts(tmp_path, second), "4"))[:3] == there


MESSAGE = Message("m/1", ActorRef("worker", "default:a/b"), "enqueue", {"text": "work"})


def send(session: Session) -> None:
    session.execute("INSERT INTO mailbox (n, outside, message) VALUES (5, 1, ?)", (MESSAGE.encode(),))


def messages(session: Session) -> list[Any]:
    return session.execute("SELECT * FROM messages").fetchall()


def next_number(session: Session) -> list[Any]:
    return session.execute("SELECT nextval('message_numbers')").fetchall()


def mailbox(session: Session) -> list[Any]:
    return session.execute("SELECT n, outside, message FROM mailbox").fetchall()


async def test_messages_find_their_actors_and_a_held_store_is_held_there(
    tmp_path: Path, postgres_url: Address
) -> None:
    first, second = SqliteDatabase(tmp_path / "first"), SqliteDatabase(tmp_path / "second")
    await first.open()
    await first.write(send)
    await first.write(write_note, HELD, {"open_tasks": 3})
    await first.close()
    await filled(first)
    there = plain(tmp_path, postgres_url)
    await migrate(first, there)
    await there.open()
    sent = (5, *MESSAGE.to, "", 0, 1, MESSAGE.encode())
    assert (await there.read(messages), await there.read(next_number)) == ([sent], [(6,)])
    await there.close()
    await migrate(plain(tmp_path, postgres_url), second)
    await second.open()
    assert await second.read(mailbox) == [(5, 1, MESSAGE.encode())]
    assert await second.read(read_note, HELD) == {"open_tasks": 3}
    await second.close()


# Refusals


async def test_a_store_in_use_full_newer_or_of_the_same_kind_is_refused(
    tmp_path: Path, postgres_url: Address
) -> None:
    data, first = tmp_path / "front", tmp_path / "first"
    async with FakeProvider() as provider:
        async with up(data, first, provider):
            with pytest.raises(StoreLocked, match="is in use by process"):
                await moved(data, first, postgres_url)
        async with up(data, postgres_url, provider):
            with pytest.raises(StoreLocked, match="is in use by 1 process"):
                await moved(data, postgres_url, tmp_path / "second")
            with pytest.raises(StoreFailed, match="is not empty"):
                await moved(data, first, postgres_url)
    with pytest.raises(StoreFailed, match=r"has no mesh\.db"):
        await moved(data, tmp_path / "nowhere", postgres_url / "other")
    with pytest.raises(StoreFailed, match="is empty"):
        await moved(data, postgres_url / "other", tmp_path / "third")
    with pytest.raises(InvalidInput, match="between SQLite and PostgreSQL"):
        await moved(data, first, tmp_path / "third")
    database = plain(data, first)
    await database.open()
    await database.write(be_newer)
    await database.close()
    with pytest.raises(StoreTooNew):
        await moved(data, first, postgres_url / "other")


def be_newer(session: Session) -> None:
    session.execute("UPDATE component_versions SET version = 99 WHERE component = 'mesh'")


@pytest.mark.parametrize("back", [False, True])
async def test_the_source_refuses_to_work_until_it_is_reopened(
    tmp_path: Path, postgres_url: Address, back: bool
) -> None:
    data = tmp_path / "front"
    source, target = (postgres_url, tmp_path / "to") if back else (tmp_path / "from", postgres_url)
    async with FakeProvider() as provider:
        async with up(data, source, provider):
            pass
        await moved(data, source, target)
        with pytest.raises(StoreMoved, match="was migrated to"):
            async with up(data, source, provider):
                pass
        with pytest.raises(StoreMoved, match="was migrated to"):
            await moved(data, source, tmp_path / "third" if back else postgres_url / "third")
        await reopen(database_of(data, source))
        async with up(data, source, provider) as running:
            [event] = await running.mesh.log.query(EventFilter(event_type="store.reopened"))
        async with up(data, target, provider) as running:
            [event] = await running.mesh.log.query(EventFilter(event_type="store.migrated"))
            assert event.fields["last_seq"] > 0
        with pytest.raises(StoreFailed, match="was not migrated"):
            await reopen(database_of(data, source))


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from meshwright.parts.maintenance.migrate import migrate
from tests.parts.integration.test_migrate import database_of
from tests.support.postgres import Address

_, folder, first, url = sys.argv
databases = database_of(Path(folder), Path(first)), database_of(Path(folder), Address(url))
asyncio.run(migrate(*databases, lambda reached, total: os.kill(os.getpid(), signal.SIGKILL)))
"""
ABORT = {
    "sqlite": "CREATE TRIGGER refused BEFORE INSERT ON meta WHEN new.name = 'moved' "
    "BEGIN SELECT RAISE(ABORT, 'refused'); END",
    "postgres": "CREATE FUNCTION refuse() RETURNS trigger AS 'BEGIN RAISE ''refused''; END' "
    "LANGUAGE plpgsql; CREATE TRIGGER refused BEFORE DELETE ON meta FOR EACH ROW "
    "WHEN (old.name = 'unfinished') EXECUTE FUNCTION refuse()",
}
ALLOW = {"sqlite": "DROP TRIGGER refused", "postgres": "DROP TRIGGER refused ON meta"}


async def have(database: Database, script: str) -> None:
    await database.open()
    await database.write(execute, script)
    await database.close()


def execute(session: Session, script: str) -> None:
    session.execute(script)


async def test_a_migration_that_broke_off_leaves_no_store_that_works_twice(
    tmp_path: Path, postgres_url: Address
) -> None:
    data, first = tmp_path / "front", tmp_path / "first"
    async with FakeProvider() as provider:
        async with up(data, first, provider) as running:
            task_id = await running.submit("person")
            await running.waits(task_id)

        async def is_unfinished() -> None:
            with pytest.raises(StoreMoved, match="unfinished"):
                async with up(data, postgres_url, provider):
                    pass

        def run_killed() -> int:
            command = [sys.executable, "-c", KILLED, str(data), str(first), postgres_url]
            return subprocess.run(command, check=False, env={**os.environ}).returncode

        # during the copy
        assert await asyncio.to_thread(run_killed) == -signal.SIGKILL
        await is_unfinished()
        async with up(data, first, provider) as running:
            await running.answer(task_id, " red")
            assert await running.outcome(task_id) == "person red"
        # before the source is closed
        await have(plain(data, first), ABORT["sqlite"])
        with pytest.raises(StoreFailed, match="refused"):
            await moved(data, first, postgres_url)
        await is_unfinished()
        await have(plain(data, first), ALLOW["sqlite"])
        async with up(data, first, provider):
            pass
        # between the source and the target
        await have(plain(data, postgres_url), ABORT["postgres"])
        with pytest.raises(StoreFailed, match="refused"):
            await moved(data, first, postgres_url)
        await is_unfinished()
        with pytest.raises(StoreMoved):
            async with up(data, first, provider):
                pass
        await have(plain(data, postgres_url), ALLOW["postgres"])
        found = await moved(data, first, postgres_url)
        assert (found.tasks, found.open_tasks) == (1, 0)
        async with up(data, postgres_url, provider) as running:
            assert await running.outcome(task_id) == "person red"
        assert len(provider.calls) == 2


# The command


def test_the_command_says_what_went_where(
    tmp_path: Path, postgres_url: Address, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, data = f"sqlite:{tmp_path / 'first'}", ("--data", str(tmp_path / "front"))
    asyncio.run(filled(SqliteDatabase(tmp_path / "first")))
    monkeypatch.setenv("MESH_DATABASE", postgres_url)
    assert run_mesh(["migrate", "--from", first, "--to", "postgresql", "--json", *data]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tasks"], found["last_seq"]) == (0, 1) and PASSWORD not in str(found)
    assert run_mesh(["migrate", "--from", first, "--reopen", *data]) == 0
    assert "may be opened for work again" in capsys.readouterr().out
    calls = {
        ("--from", first): "Name the store to fill",
        ("--from", "mysql:there", "--to", first): "'mysql' names no store",
        ("--from", first, "--to", postgres_url): "is not empty",
    }
    for call, said in calls.items():
        assert run_mesh(["migrate", *call, *data]) != 0, call
        assert said in capsys.readouterr().err, call

"""The tables of replies: the same on SQLite and PostgreSQL."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import pytest

from meshwright.edges.replies import table
from meshwright.edges.replies.table import Progress, SenderKey, StoredAddress, UnsentReply
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.postgres import PostgresDatabase
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.engine.work.protocol import TaskKey
from tests.support.postgres import Location

SENDER = SenderKey("mail", "here")
TASK = TaskKey("acme", "t1")
NOW = datetime(2026, 1, 1, 12, 0, 0, 250, tzinfo=UTC)


@pytest.fixture
async def database(location: Location, tmp_path: Path) -> AsyncIterator[Database]:
    opened = SqliteDatabase(location) if isinstance(location, Path) else PostgresDatabase(location, tmp_path)
    opened.migrate("replies", files("meshwright.edges.replies") / "tables")
    await opened.open()
    yield opened
    await opened.close()


def box(name: str, client: str = "ada") -> StoredAddress:
    return {"client": client, "box": name}


def unsent(seq: int, tenant_id: str = "acme", failures: int = 0) -> UnsentReply:
    known = {"tenant_id": tenant_id, "task_id": "t1", "address": box("b"), "retry_at": NOW}
    return UnsentReply(seq=seq, failures=failures, **known)


async def test_a_client_keeps_its_last_addresses_in_order(database: Database) -> None:
    await database.write(table.add_address, "mail", TASK, box("bob", "bob"))
    for name in "abcdefghia":
        await database.write(table.add_address, "mail", TASK, box(name))
    await database.write(table.add_address, "post", TASK, box("other scheme"))
    await database.write(table.add_address, "mail", TaskKey("acme", "t2"), box("other task"))
    expected = [box("bob", "bob"), *map(box, "cdefghia")]
    assert await database.read(table.addresses, "mail", TASK) == expected


async def test_one_process_owns_a_sender_and_its_position(database: Database) -> None:
    assert await database.read(table.progress, SENDER) is None
    assert await database.write(table.begin, SENDER, 7) == Progress(7, "")
    assert await database.write(table.begin, SENDER, 9) == Progress(7, "")
    assert await database.write(table.own, SENDER, "one", "")
    assert not await database.write(table.own, SENDER, "two", "")
    await database.write(table.reach, SENDER, 8)
    assert await database.read(table.progress, SENDER) == Progress(8, "one")
    assert await database.read(table.progress, SenderKey("mail", "there")) is None


async def test_too_many_unsent_replies_drop_the_oldest_of_the_largest_tenant(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_MAX_UNSENT", 3)
    for reply in (unsent(1, "a"), unsent(2), unsent(3), unsent(2, failures=1)):
        assert await database.write(table.postpone, SENDER, reply) is None
    assert await database.write(table.postpone, SENDER, unsent(4)) == unsent(2, failures=1)
    assert await database.read(table.unsent, SENDER) == [unsent(1, "a"), unsent(3), unsent(4)]
    await database.write(table.settle, SENDER, unsent(3, failures=5))
    assert await database.read(table.unsent, SENDER) == [unsent(1, "a"), unsent(4)]

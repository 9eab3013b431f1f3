"""The tables of evaluations: the same on SQLite and PostgreSQL."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest

from meshwright.core.errors import Conflict, NotFound, Overloaded
from meshwright.core.events import Event
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.postgres import PostgresDatabase
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.parts import evaluations
from meshwright.parts.evaluations import table
from meshwright.parts.evaluations.table import EvaluationKey, EvaluationRow, ItemRow
from tests.support.postgres import Location

NOW = datetime(2026, 11, 2, 8, tzinfo=UTC)
EVENT = Event(id="x/1", event_type="evaluation.ended", topic="mesh", time=NOW)
KEY = EvaluationKey("acme", "e")


@pytest.fixture
async def database(location: Location, tmp_path: Path) -> AsyncIterator[Database]:
    opened = SqliteDatabase(location) if isinstance(location, Path) else PostgresDatabase(location, tmp_path)
    opened.migrate("evaluations", resources.files(evaluations) / "tables")
    await opened.open()
    yield opened
    await opened.close()


async def add(
    database: Database, key: EvaluationKey = KEY, at: float = 1.5, most: tuple[int, int] = (9, 9)
) -> None:
    row = EvaluationRow(
        tenant_id=key.tenant_id, id=key.evaluation_id, spec='{"ä": 1}', items=2, created_at=at
    )
    items = [ItemRow(number=number, texts=f"texts {number}", state="{}") for number in (1, 2)]
    await database.write(table.add, EVENT, row, items, [("task-1", 1)], most)


async def test_items_end_once_and_evaluations_too(database: Database) -> None:
    await add(database)
    with pytest.raises(Conflict, match="already"):
        await add(database)
    assert await database.read(table.open_keys) == [KEY]
    await database.write(table.end_item, KEY, 1, "new texts", "{}", ["judge-1"])
    assert await database.read(table.open_items, KEY) == [2]
    [first, second] = await database.read(table.items, KEY)
    assert (first.texts, first.figures, second.texts, second.figures) == ("new texts", "{}", "texts 2", None)
    assert [item.number for item in await database.read(table.items, KEY, 1, 9)] == [2]
    assert [item.texts for item in (await database.read(table.facts, [KEY]))["e"]] == [None, None]
    assert (await database.write(table.end, EVENT, KEY, 2.5, 1, "0.25"))[1] == [EVENT]
    assert (await database.write(table.end, EVENT, KEY, 3.5, 0, None))[1] == []
    found = await database.read(table.find, KEY)
    assert (found.ended_at, found.spec, await database.read(table.open_keys)) == (2.5, '{"ä": 1}', [])
    assert (found.failed, found.cost_usd) == (1, "0.25")
    with pytest.raises(NotFound):
        await database.read(table.find, EvaluationKey("beta", "e"))


async def test_texts_are_erased_by_the_tasks_of_their_item(database: Database) -> None:
    await add(database)
    await add(database, EvaluationKey("beta", "e"))
    await database.write(table.end_item, KEY, 2, "new", "{}", ["judge-2"])
    await database.write(table.erase, "acme", ["task-1", "none"])
    assert [item.texts for item in await database.read(table.items, KEY)] == [None, "new"]
    await database.write(table.end_item, KEY, 1, "late", "{}", [])  # what was erased does not come back
    await database.write(table.erase, "acme", ["judge-2"])
    assert [item.texts for item in await database.read(table.items, KEY)] == [None, None]
    other = await database.read(table.items, EvaluationKey("beta", "e"))
    assert [item.texts for item in other] == ["texts 1", "texts 2"]


async def test_the_oldest_that_has_ended_makes_room(database: Database) -> None:
    names = [EvaluationKey("acme", name) for name in "abc"]
    for at, key in enumerate(names[:2]):
        await add(database, key, at)
    with pytest.raises(Overloaded, match="2 evaluations"):
        await add(database, names[2], 2, (2, 2))
    await database.write(table.end, EVENT, names[1], 9.0, 0, None)
    await add(database, names[2], 2, (2, 2))
    rows = await database.read(table.page, "acme", (9.0, ""), 9)
    assert [row.id for row in rows] == ["c", "a"] and await database.read(table.items, names[1]) == []
    assert [row.id for row in await database.read(table.page, "acme", (2.0, "c"), 9)] == ["a"]

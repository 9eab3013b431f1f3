"""A start that upgrades the tables of a store says so, and keeps a copy of the file."""

import logging
import sqlite3
from pathlib import Path

import pytest

from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.sql.database import Session
from meshwright.engine.sql.sqlite import SqliteDatabase

FIRST, SECOND = "CREATE TABLE pagers (number TEXT);", "ALTER TABLE pagers ADD COLUMN zone TEXT;"
COPY = "mesh.db.before-pager-2"


def steps(folder: Path, *scripts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for number, script in enumerate(scripts, start=1):
        (folder / f"{number:04}_step.sql").write_text(script)
    return folder


async def opened(data: Path, folder: Path) -> list[str]:
    """Open a store with these steps, write a row; returns the upgrades that its log names."""
    database = SqliteDatabase(data)
    database.migrate("pager", folder)
    log = EventLog(database)
    await database.open()
    try:
        await log.start()
        await database.write(add)
        events = await log.query(EventFilter(event_type="store.upgraded"))
        return [upgrade for event in events for upgrade in event.fields["upgrades"]]
    finally:
        log.close()
        await database.close()


def add(session: Session) -> None:
    session.execute("INSERT INTO pagers (number) VALUES ('1')")


def rows(file: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(file) as store:
        return store.execute("SELECT * FROM pagers").fetchall()


async def test_an_upgrade_says_so_and_keeps_a_copy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, folder = tmp_path / "data", steps(tmp_path / "steps", FIRST)
    with caplog.at_level(logging.WARNING):
        assert await opened(data, folder) == []  # new tables are no upgrade
        assert await opened(data, folder) == [] and not caplog.records
        assert await opened(data, steps(folder, FIRST, SECOND)) == ["pager 1 to 2"]
    assert "mesh.db is upgraded (pager 1 to 2); the database as it was is" in caplog.text
    assert rows(data / COPY) == [("1",), ("1",)]
    assert rows(data / "mesh.db") == [("1", None)] * 3
    assert (data / COPY).stat().st_mode & 0o777 == 0o600
    assert await opened(data, folder) == ["pager 1 to 2"]  # recorded once
    assert rows(data / COPY) == [("1",), ("1",)]


async def test_an_upgrade_that_breaks_off_leaves_the_store_and_the_first_copy(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", steps(tmp_path / "steps", FIRST)
    await opened(data, folder)
    with pytest.raises(Exception, match="no such table"):
        await opened(data, steps(folder, FIRST, "INSERT INTO nowhere VALUES (1);"))
    assert rows(data / "mesh.db") == rows(data / COPY) == [("1",)]
    assert await opened(data, steps(folder, FIRST, SECOND)) == ["pager 1 to 2"]
    assert rows(data / COPY) == [("1",)]

"""A projection that raises stands at the event that it cannot fold, says so once, and holds up no other."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import pytest

from meshwright.core.events import Event
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.projections import FAILED
from meshwright.engine.sql.database import Database, Session
from tests.support.event_logs import LogOnFile, database_at, event
from tests.support.postgres import Location
from tests.support.task_events import accepted, names


class Lines:
    """Lists numbers, but for one that it chokes on."""

    name = "lines"
    event_types: Collection[str] = ("line.written",)

    def __init__(self, bad: int = -1, version: int = 1) -> None:
        self.bad, self.version = bad, version

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        for each in events:
            session.execute("INSERT INTO lines VALUES (?)", (each.fields["number"],))
            if each.fields["number"] == self.bad:
                raise ValueError(f"no line {self.bad}\nwith the secret text of the line")

    def clear(self, session: Session, oldest: int) -> None:
        if self.version == self.bad:
            raise RuntimeError("cannot be cleared")
        session.execute("DELETE FROM lines")


@asynccontextmanager
async def log_with(location: Location, lines: Lines) -> AsyncIterator[LogOnFile]:
    database: Database = database_at(location)
    await database.open()
    await database.write(_make_table)
    log = EventLog(database, projections=[lines])
    try:
        await log.start()
        yield LogOnFile(database, log)
    finally:
        log.close()
        await database.close()


def _make_table(session: Session) -> None:
    session.execute("CREATE TABLE IF NOT EXISTS lines (number INTEGER)")


async def listed(store: LogOnFile) -> list[int]:
    await store.log.flush()
    return [number for (number,) in await store.rows("SELECT number FROM lines ORDER BY number")]


async def failures(store: LogOnFile) -> list[Event]:
    return await store.log.query(EventFilter(event_type=FAILED))


async def test_projection_that_raises_stalls_alone_and_says_so_once(
    location: Location, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines(bad=7)
    async with log_with(location, lines) as store:
        await store.write([event(n) for n in range(10)])
        for start in range(100, 3000, 100):  # enough for folding behind the log
            await store.write([accepted(f"task-{start}"), *(event(n) for n in range(start, start + 100))])
            await asyncio.sleep(0)
        assert await listed(store) == [0, 1, 2, 3, 4, 5, 6]
        assert len(await names(store)) == 29, "other lists go on"
        [stalled] = store.log.stalled()
        assert (stalled.name, stalled.seq, stalled.error) == ("lines", 8, "ValueError: no line 7")
        [failed] = await failures(store)
        assert failed.fields == {"name": "lines", "seq": 8, "error": "ValueError: no line 7"}
        lines.bad = -1
        while store.log.stalled():
            await store.log.flush()
        assert await listed(store) == [*range(10), *range(100, 3000)]
    stalls = [text for text in caplog.messages if "Projection" in text]
    assert stalls == ["Projection lines stands at event 8: ValueError: no line 7"]


async def test_stalled_projection_is_tried_again_at_the_next_start(location: Location) -> None:
    for _ in range(2):
        async with log_with(location, Lines(bad=2)) as store:
            await store.write([event(n) for n in range(3)] if not await failures(store) else [])
            assert await listed(store) == [0, 1]
            assert len(await failures(store)) == 1
    async with log_with(location, Lines()) as store:
        assert await listed(store) == [0, 1, 2]
        assert store.log.stalled() == []


async def test_projection_that_cannot_be_cleared_stalls(location: Location) -> None:
    async with log_with(location, Lines()) as store:
        await store.write([event(n) for n in range(3)])
        assert await listed(store) == [0, 1, 2]
    async with log_with(location, Lines(bad=2, version=2)) as store:
        await store.write([accepted("task")])
        assert await names(store) == ["task"]
        assert [(item.seq, item.error) for item in store.log.stalled()] == [
            (0, "RuntimeError: cannot be cleared")
        ]

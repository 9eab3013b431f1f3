"""For tests of the event log: a log on a file, events, and a turn's way of writing them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from meshwright.core.clock import Clock
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.parts import ours
from meshwright.core.payloads import by_type
from meshwright.engine.events import table
from meshwright.engine.events.inbox import InboxProjection
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.rows import COLUMNS
from meshwright.engine.events.status import WaitProjection
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.mesh.orchestration.scoring import OutcomeProjection
from meshwright.money.costs import CallProjection
from tests.support.postgres import Location

START = datetime(2030, 1, 1, tzinfo=UTC)


class LogOnFile:
    """An event log and its database."""

    def __init__(self, database: Database, log: EventLog) -> None:
        self.database = database
        self.log = log

    async def write(self, events: Sequence[Event]) -> list[Event]:
        """Write events as a host does with those of turns."""
        written = await self.database.write(self.log.insert, events)
        return self.log.tell(events, written)

    async def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return await self.database.read(lambda connection: connection.execute(query, parameters).fetchall())


async def forge(
    database: Database, log: EventLog, event_type: str, payload: Any, topic: str = "app.x"
) -> None:
    """Write a row of a type that no caller can give to an event of its topic, chained as all are."""
    made = event(0, topic=topic, id=f"app/rival/{new_id()}", tenant_id="rival", payload=payload)
    [row], now = log.rows([made])
    at = COLUMNS.index("event_type") - 1  # a row to write has no number yet
    await database.write(table.insert, [(*row[:at], event_type, *row[at + 1 :])], now)
    await log.catch_up()


def database_at(location: Location | None) -> Database:
    """A folder's SQLite database, or that of an address."""
    if not isinstance(location, str):
        return SqliteDatabase(location, durability="off")
    from meshwright.engine.sql.postgres import PostgresDatabase

    return PostgresDatabase(location, Path(), durable=False)


@asynccontextmanager
async def open_log(
    location: Location | None, clock: Clock | None = None, *, keep_days: float | None = None
) -> AsyncIterator[LogOnFile]:
    database = database_at(location)
    projections = (OutcomeProjection(), CallProjection(), WaitProjection(), InboxProjection())
    log = EventLog(database, projections=projections, clock=clock, keep_days=keep_days)
    await database.open()
    try:
        await log.start()
        yield LogOnFile(database, log)
    finally:
        log.close()
        await database.close()


def event(number: int, event_type: str = "line.written", **fields: Any) -> Event:
    """The event that an actor sent as its `number`-th."""
    aggregate_id = fields.pop("aggregate_id", "Diary/one")
    return Event(
        **{
            "id": f"{aggregate_id}/{number}",
            "topic": "task-progress",
            "time": START + timedelta(seconds=number),
            "payload": {"number": number},
            **fields,
        },
        event_type=event_type,
        aggregate_id=aggregate_id,
    )


def seqs(events: Sequence[Event]) -> list[int]:
    return [each.seq or 0 for each in events]


def payload_fields() -> dict[str, frozenset[str] | None]:
    """The fields of the payload of each type that our parts declare; None for a whole record."""
    kinds = by_type(kind for part in ours() if part.events for kind in part.load(part.events))
    return {
        name: None if kind.event_listed.startswith("the ") else frozenset(kind.__struct_fields__)
        for name, kind in kinds.items()
        if not name.endswith("*")
    }

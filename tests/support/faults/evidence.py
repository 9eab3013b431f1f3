"""The records of the embedded host, as evidence for the oracle."""

from __future__ import annotations

from pathlib import Path

from meshwright.events.filter import EventFilter
from meshwright.events.log import EventLog
from meshwright.events.tasks import TaskSummary
from meshwright.kernel.envelope import ActorRecord, ActorRef
from meshwright.kernel.rows import record_of
from meshwright.sql.database import Database
from meshwright.sql.sqlite import SqliteDatabase
from tests.support.faults.fleet import MAX_CONCURRENCY, Books
from tests.support.faults.oracle import Evidence

AGENTS = 3


async def gather(folder: Path, *, kills: int = 0) -> Evidence:
    """Read the file of a mesh that has stopped or was killed, and the books beside it."""
    books = Books(folder)
    database = SqliteDatabase(folder / "data")
    await database.open()
    try:
        log = EventLog(database)
        await log.start()
        return Evidence(
            accepted=[task_id for _, task_id in books.accepted.read()],
            told=[(task_id, status) for task_id, status, _ in books.told.read()],
            events=[event async for event in log.replay(EventFilter())],
            heads=_heads(database),
            undelivered=_undelivered(database),
            listed=await listed_in(log),
            model_calls=len(books.calls.read()),
            kills=kills,
            max_in_flight=AGENTS * MAX_CONCURRENCY,
        )
    finally:
        await database.close()


def _heads(database: Database) -> dict[ActorRef, ActorRecord]:
    reader = database.connect_reader()
    rows = reader.execute(
        "SELECT type, id, revision, last_turn, sent, wake_at, obliged, seen, state FROM heads"
    ).fetchall()
    reader.close()
    return {ActorRef(*row[:2]): record_of(row[2:]) for row in rows}


def _undelivered(database: Database) -> int:
    reader = database.connect_reader()
    (count,) = reader.execute("SELECT count(*) FROM mailbox").fetchone()
    reader.close()
    return count


async def listed_in(log: EventLog) -> list[TaskSummary]:
    """The list of tasks, whole."""
    listed: list[TaskSummary] = []
    cursor = None
    while True:
        page = await log.tasks(tenant_id="default", limit=1000, cursor=cursor)
        listed += page.items
        cursor = page.cursor
        if cursor is None:
            return listed

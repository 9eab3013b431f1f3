"""The records of a mesh in a database, as evidence for the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.tasks import TaskSummary
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef
from meshwright.engine.kernel.rows import read_record
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.money.balance import Balance
from meshwright.money.costs import CallProjection, CostQuery, sum_costs
from tests.support.faults.fleet import MAX_CONCURRENCY, Books
from tests.support.faults.oracle import Evidence, Money

AGENTS = 4
BUDGET = ActorRef("budget-account", "all:mesh")
"""The account of the budget of a job whose calls cost something."""


async def gather(folder: Path, *, kills: int = 0, cost_usd: Decimal | None = None) -> Evidence:
    """Read the file of a mesh that has stopped or was killed, and the books beside it.

    With `cost_usd`, the price of a call, what the run has cost too.
    """
    database = SqliteDatabase(folder / "data")
    await database.open()
    try:
        log = EventLog(database)
        log.add(CallProjection())
        await log.start()
        events, heads = [event async for event in log.replay(EventFilter())], heads_in(database)
        return Evidence(
            **written(Books(folder)),
            events=events,
            heads=heads,
            undelivered=undelivered_in(database),
            listed=await listed_in(log),
            money=None if cost_usd is None else await money_in(log, Books(folder), heads, cost_usd),
            kills=kills,
            max_in_flight=AGENTS * MAX_CONCURRENCY,
        )
    finally:
        await database.close()


def written(books: Books) -> dict[str, Any]:
    """The fields of the evidence that clients, models and tools wrote down."""
    called = books.calls.read()
    return {
        "accepted": [task_id for _, task_id in books.accepted.read()],
        "told": [(task_id, status) for task_id, status, _ in books.told.read()],
        "called": called,
        "model_calls": len(called),
        "effects": books.effects.read(),
    }


async def money_in(
    log: EventLog, books: Books, heads: Mapping[ActorRef, ActorRecord], cost_usd: Decimal
) -> Money:
    """Add up what a run has cost."""
    total = (await sum_costs(log, CostQuery(None))).total
    balance = Balance.model_validate_json(heads[BUDGET].state) if BUDGET in heads else Balance()
    return Money(
        provider=books.calls.count() * cost_usd,
        ledger=total.cost_usd or Decimal(0),
        estimated=total.estimated_usd,
        budget=balance.spent,
    )


def heads_in(database: Database) -> dict[ActorRef, ActorRecord]:
    reader = database.connect_reader()
    rows = reader.execute(
        "SELECT type, id, revision, last_turn, sent, wake_at, obliged, seen, state FROM heads "
        "WHERE revision > 0"
    ).fetchall()
    reader.close()
    return {ActorRef(*row[:2]): read_record(row[2:]) for row in rows}


def undelivered_in(database: Database, table: str = "mailbox") -> int:
    reader = database.connect_reader()
    (count,) = reader.execute(f"SELECT count(*) FROM {table}").fetchone()
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

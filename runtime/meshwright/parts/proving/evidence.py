"""Reads the records of a mesh in a database, as evidence for the oracle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from meshwright.core.events import Event
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.tasks import TaskSummary
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef
from meshwright.engine.kernel.rows import read_record
from meshwright.engine.sql.database import Database
from meshwright.money.balance import Balance
from meshwright.money.costs import CallProjection, CostQuery, sum_costs
from meshwright.parts.proving.oracle import Evidence, RunCosts, event_number
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import AGENTS, MAX_CONCURRENCY

BUDGET = ActorRef("budget-account", "all:mesh")
"""The account of the budget of a run whose calls cost something."""


async def read_evidence(
    database: Database, records: Records, *, kills: int = 0, cost_usd: Decimal | None = None
) -> Evidence:
    """Open a database, read all that a mesh has in it, and close it.

    SQLite can be read only while no mesh runs on it. `kills` counts the faults that may have cut calls off;
    with `cost_usd`, the price of a call, the costs of the run are evidence too.
    """
    await database.open()
    try:
        log = EventLog(database)
        log.add(CallProjection())
        await log.start()
        events, heads = [event async for event in log.replay(EventFilter())], read_heads(database)
        return Evidence(
            **recorded_fields(records),
            events=events if database.exclusive else sort_by_number(events),
            heads=heads,
            undelivered=_count_undelivered(database),
            summaries=await read_summaries(log),
            money=None if cost_usd is None else await read_money(log, records, heads, cost_usd),
            kills=kills,
            max_in_flight=AGENTS * MAX_CONCURRENCY,
            in_order=database.exclusive,
        )
    finally:
        await database.close()


def recorded_fields(records: Records) -> dict[str, Any]:
    """Return the fields of the evidence that clients, models and tools recorded."""
    calls = records.calls.read()
    return {
        "charges": records.charges.read(),
        "swaps": records.swaps.read(),
        "misplaced": [task_id for [task_id] in records.misplaced.read()],
        "accepted": [task_id for _, task_id in records.accepted.read()],
        "reported": [(task_id, status) for task_id, status, _ in records.outcomes.read()],
        "called": calls,
        "model_calls": len(calls),
        "effects": records.effects.read(),
    }


async def read_money(
    log: EventLog, records: Records, heads: Mapping[ActorRef, ActorRecord], cost_usd: Decimal
) -> RunCosts:
    """Add up the costs of a run."""
    total = (await sum_costs(log, CostQuery(None))).total
    balance = Balance.model_validate_json(heads[BUDGET].state) if BUDGET in heads else Balance()
    return RunCosts(
        provider=records.calls.count() * cost_usd,
        ledger=total.cost_usd or Decimal(0),
        estimated=total.estimated_usd,
        budget=balance.spent,
    )


def read_heads(database: Database) -> dict[ActorRef, ActorRecord]:
    """Read the stored records of all actors."""
    reader = database.connect_reader()
    rows = reader.execute(
        "SELECT type, id, revision, last_turn, sent, wake_at, obliged, seen, state FROM heads "
        "WHERE revision > 0"
    ).fetchall()
    reader.close()
    return {ActorRef(*row[:2]): read_record(row[2:]) for row in rows}


async def read_summaries(log: EventLog) -> list[TaskSummary]:
    """Read the whole list of tasks."""
    summaries: list[TaskSummary] = []
    cursor = None
    while True:
        page = await log.tasks(tenant_id="default", limit=1000, cursor=cursor)
        summaries += page.items
        cursor = page.cursor
        if cursor is None:
            return summaries


def sort_by_number(events: Sequence[Event]) -> list[Event]:
    """Put the events of each actor in the order of their numbers.

    Two workers that take turns at an actor publish side by side, so an event of the second may come first.
    """
    numbers: defaultdict[str, list[tuple[int, Event]]] = defaultdict(list)
    for event in events:
        number = event_number(event)
        if number is not None:
            numbers[event.aggregate_id].append((number, event))
    sorted_events = {
        aggregate_id: iter([event for _, event in sorted(own, key=lambda pair: pair[0])])
        for aggregate_id, own in numbers.items()
    }
    return [
        event if event_number(event) is None else next(sorted_events[event.aggregate_id]) for event in events
    ]


def _count_undelivered(database: Database) -> int:
    reader = database.connect_reader()
    table = "mailbox" if database.exclusive else "messages"
    (count,) = reader.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 code
    reader.close()
    return int(count)

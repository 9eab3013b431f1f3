"""The event log beside bare inserts of the same events into the same table, a batch to a commit."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, column, compared
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.messages import Dispatch, Outcome
from meshwright.engine.events import table
from meshwright.engine.events.log import EventLog
from meshwright.engine.sql.database import Session
from meshwright.engine.sql.sqlite import SqliteDatabase, SqliteSession
from meshwright.mesh.orchestration.scoring import OutcomeProjection
from meshwright.money.costs import CallProjection

BATCH, BATCHES = 512, 150
SHAPES = {"task.dispatched": Dispatch, "attempt.ended": Outcome, "task.succeeded": Outcome}
COLUMNS = (
    "seq, time, event_type, event_version, topic, tenant_id, task_id, agent_id, trace_id, traceparent, "
    "aggregate_id, own_id, payload"
)
INSERT = f"INSERT INTO events ({COLUMNS}) VALUES ({','.join('?' * 13)})"


async def measure(bench: Bench) -> list[Row]:
    sample = await bench.sample()
    arguments = {"events": sample["events"], "batches": bench.count(BATCHES)}
    rounds = await bench.in_turns(
        {
            "ours": partial(bench.side, "benchmarks.log:ours", **arguments),
            "floor": partial(bench.side, "benchmarks.log:by_hand", **arguments),
        }
    )
    ours, floor = rounds["ours"], rounds["floor"]
    by_hand = column(floor, "rate", "events/s")
    rows = f"rows an event: ours {column(ours, 'rows').median:.2f}, floor {column(floor, 'rows').median:.2f}"
    return [
        compared(
            f"event log, {BATCH} events a commit, found by each of their keys",
            column(ours, "rate", "events/s"),
            by_hand,
            target=">= 0.7",
            meets=lambda share, median: share >= 0.7,
            note=f"{column(ours, 'us', 'us', 1)} an event, floor {column(floor, 'us', 'us', 1)}",
        ),
        compared(
            "the same with the lists of tasks, calls and attempts made from it",
            column(ours, "rate_with_lists", "events/s"),
            by_hand,
            note=rows,
        ),
    ]


async def ours(folder: str, events: list[Any], batches: int) -> dict[str, float]:
    """The log, in the writer's transactions; then the lists, which are made behind it."""
    database = SqliteDatabase(Path(folder))
    log = EventLog(database, projections=(OutcomeProjection(), CallProjection()))
    await database.open()
    await log.start()
    seconds = 0.0
    for batch in make_batches(events, batches):
        started = time.perf_counter()
        log.number(batch, await database.write(table.insert, *log.rows(batch)))
        seconds += time.perf_counter() - started
    started = time.perf_counter()
    await log.rebuild()
    lists = time.perf_counter() - started
    changes = await database.write(_changes)
    log.close()
    await database.close()
    count = batches * BATCH
    return {**summary(batches, seconds, changes), "rate_with_lists": count / (seconds + lists)}


def _changes(session: Session) -> int:
    assert isinstance(session, SqliteSession)
    return session.connection.total_changes


async def by_hand(folder: str, events: list[Any], batches: int) -> dict[str, float]:
    """The same table, and nothing else."""
    database = SqliteDatabase(Path(folder))  # makes the tables
    await database.open()
    await database.close()
    connection = sqlite3.connect(database.path, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA wal_autocheckpoint=4000")
    seconds, seq = 0.0, 0
    for batch in make_batches(events, batches):
        started = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, [row(event, seq + n) for n, event in enumerate(batch, start=1)])
        connection.execute("COMMIT")
        seconds += time.perf_counter() - started
        seq += len(batch)
    return summary(batches, seconds, connection.total_changes)


def row(event: Event, seq: int) -> tuple[Any, ...]:
    """An event as the columns of its row."""
    return (
        *(seq, event.time.timestamp(), event.event_type, event.event_version, event.topic, event.tenant_id),
        *(event.task_id, event.agent_id, event.trace_id, event.traceparent, event.aggregate_id),
        *(event.id.rpartition("/")[2], bytes(event.payload)),
    )


def make_batches(events: list[Any], batches: int) -> Iterator[list[Event]]:
    """The events of one task, over and over, each time of another task."""
    stream = _stream(events)
    for _ in range(batches):
        yield [next(stream) for _ in range(BATCH)]


def _stream(events: list[Any]) -> Iterator[Event]:
    make: Callable[..., Event] = partial(Event, agent_id="bench-agent")
    while True:
        task_id, trace_id = new_id(), new_id()
        actor = f"Orchestrator/{task_id}"
        for n, (event_type, topic, payload) in enumerate(events):
            event = make(
                id=f"{actor}/{n}",
                event_type=event_type,
                topic=topic,
                time=datetime.now(UTC),
                task_id=task_id,
                trace_id=trace_id,
                traceparent=f"00-{trace_id}-0123456789abcdef-01",
                aggregate_id=actor,
                payload=_of_task(event_type, payload, task_id),
            )
            yield event.sealed()  # as its turn has done before it comes to the log


def _of_task(event_type: str, payload: Any, task_id: str) -> Any:
    """A payload as its turn publishes it: a model where it is one."""
    if event_type in SHAPES:
        return SHAPES[event_type].model_validate(_renamed(payload, task_id))
    return payload


def _renamed(document: dict[str, Any], task_id: str) -> dict[str, Any]:
    if "task" in document:
        return {**document, "task": _renamed(document["task"], task_id)}
    return {**document, "task_id": task_id}


def summary(batches: int, seconds: float, changes: int) -> dict[str, float]:
    count = batches * BATCH
    return {"rate": count / seconds, "us": seconds / count * 1e6, "rows": changes / count}

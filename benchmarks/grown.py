"""A store with many tasks, made of one: its rows again and again, under other names.

The hash chain does not hold over them. It is for what reads the tables, not for what verifies them.

The row compares a task that is submitted, awaited and read behind 100,000 with one behind 100.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, column, compared
from benchmarks.instant import request
from benchmarks.machine import cpu_of
from benchmarks.stand import build_stand
from meshwright.mesh.orchestration.tasks import Tasks

_COPIES = (
    "WITH RECURSIVE copies (copy) AS (SELECT 1 UNION ALL SELECT copy + 1 FROM copies WHERE copy < :copies)"
)
_BLOCK = 2048
FEW, MANY = 100, 100_000
TASKS, WARM_UP, IN_FLIGHT = 960, 160, 16
MAX_ROUNDS, MAX_RATIO = 3, 1.05


def grow(folder: Path, tasks: int) -> None:
    """Give a store that has run tasks so many; its last task and its events are what the others are like."""
    with closing(sqlite3.connect(folder / "mesh.db", isolation_level=None)) as store:
        [(task_id, first, last)] = store.execute(
            "SELECT task_id, seq, last_seq FROM tasks ORDER BY seq DESC LIMIT 1"
        ).fetchall()
        events = last - first + 1
        values = {"copies": tasks, "task": task_id, "first": first, "last": last, "events": events}
        store.execute("BEGIN")
        for table in ("events", "tasks", "calls", "heads", "records"):
            _copy(store, table, values)
        store.execute("UPDATE event_log SET seq = (SELECT max(seq) FROM events)")
        store.execute("UPDATE projection_positions SET position = (SELECT seq FROM event_log)")
        store.execute("UPDATE task_texts_position SET seq = (SELECT seq FROM event_log)")
        store.execute(
            "INSERT OR REPLACE INTO event_blocks SELECT block.seq / :size, time, time, 0, "
            "randomblob(6000), zeroblob(32) FROM events AS block "
            "WHERE block.seq % :size = 0 AND block.seq + :size <= (SELECT seq FROM event_log)",
            {"size": _BLOCK},
        )
        for key in ("event_type", "topic", "agent_id", "tenant_id"):
            store.execute(
                f"INSERT OR IGNORE INTO event_keys SELECT DISTINCT '{key}=' || {key}, seq / :size "
                f"FROM events JOIN event_blocks ON block = seq / :size WHERE {key} IS NOT NULL",
                {"size": _BLOCK},
            )
        store.execute("COMMIT")


def _copy(store: sqlite3.Connection, table: str, values: dict[str, object]) -> None:
    """Copy the rows of the task: its id, and numbers of events, are others in each copy."""
    columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
    is_text = {"task_id", "thread_id", "call_id", "id", "aggregate_id", "other_id"}
    is_seq = {"seq", "last_seq"}
    chosen = [
        f"replace({name}, :task, printf('%026d', copy))"
        if name in is_text
        else f"{name} + :events * copy"
        if name in is_seq
        else "x'7b7d'"  # what opens a store reads no payload
        if name == "payload"
        else name
        for name in columns
    ]
    where = "seq BETWEEN :first AND :last" if "seq" in columns else "instr(id, :task)"
    store.execute(
        f"{_COPIES} INSERT OR IGNORE INTO {table} ({', '.join(columns)}) "
        f"SELECT {', '.join(chosen)} FROM copies, {table} AS made WHERE {where}",
        values,
    )


async def measure(bench: Bench) -> list[Row]:
    """A row for `make bench`: CPU of a task behind many that are stored, to that behind few."""
    few, many = FEW, bench.count(MANY)
    sides = {
        name: partial(bench.side, "benchmarks.grown:work", stored=stored, tasks=TASKS)
        for name, stored in (("few", few), ("many", many))
    }
    rounds = await bench.in_turns(sides, rounds=min(bench.rounds, MAX_ROUNDS))
    ours, floor = (column(rounds[name], "cpu_ms", "ms CPU", 2) for name in ("many", "few"))
    return [
        compared(
            f"a task that is read, behind {many:,} stored",
            ours,
            floor,
            target=f"<= {MAX_RATIO}",
            meets=lambda share, _: share <= MAX_RATIO,
            note=f"beside one behind {few:,}, {IN_FLIGHT} in flight",
        )
    ]


async def work(folder: str, stored: int, tasks: int) -> dict[str, Any]:
    """CPU of the mesh and its writer for a task: submitted, awaited, and its view read."""
    first = build_stand(folder)
    async with first.running():
        await first.task()
        await first.mesh.log.flush()
    grow(Path(folder), stored)
    stand = build_stand(folder)
    async with stand.running() as mesh:

        async def one() -> None:
            receipt = await mesh.get(Tasks).submit(request())
            await mesh.get(Tasks).outcome(receipt.task_id)
            await mesh.get(Tasks).task(receipt.task_id)

        async def several(count: int) -> None:
            for _ in range(count // IN_FLIGHT):
                await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))

        await several(WARM_UP)
        before = time.process_time() + cpu_of(stand.writer_pid)
        await several(tasks)
        cpu = time.process_time() + cpu_of(stand.writer_pid) - before
    return {"cpu_ms": cpu * 1000 / tasks, "stored": stored}

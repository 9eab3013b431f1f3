"""A task's whole lifecycle on PostgreSQL, with one, two and three workers, beside the same rows by hand."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import defaultdict
from functools import partial
from typing import Any

from pydantic_core import to_json

from benchmarks.bench import Bench
from benchmarks.figures import Row, column, compared
from benchmarks.floor import COLUMNS, SCHEMA, Floor, Rows, tell
from benchmarks.instant import InstantModel, request
from benchmarks.lifecycle import IN_FLIGHT, SECONDS, warm_up
from benchmarks.load import drive
from benchmarks.stand import build_stand
from meshwright.app import RUNTIMES
from meshwright.cli.serving import collect_young
from tests.support.postgres import Cluster, postgres_programs

DURABLE = {"fsync": "on", "full_page_writes": "on"}
WORKERS = {"one worker": 1, "two workers": 2, "three workers": 3}
MIN_SHARE = 0.35


async def measure(bench: Bench) -> list[Row]:
    programs = postgres_programs()
    if programs is None:
        return [Row("whole lifecycle on PostgreSQL", "not run: PostgreSQL is not installed")]
    cluster = Cluster(programs, DURABLE)
    try:
        await asyncio.to_thread(cluster.create)
        return await _measure(bench, cluster)
    finally:
        cluster.remove()


async def _measure(bench: Bench, cluster: Cluster) -> list[Row]:
    sample, seconds = await bench.sample(), bench.seconds(SECONDS)

    async def workers(count: int) -> dict[str, Any]:
        url, share = str(cluster.new_schema()), IN_FLIGHT // count
        worker = partial(bench.side, "benchmarks.postgres:ours", url=url, in_flight=share, seconds=seconds)
        results = await asyncio.gather(*(worker() for _ in range(count)))
        return {**results[0], "rate": sum(result["rate"] for result in results)}

    async def floor() -> dict[str, Any]:
        arguments = {"url": str(cluster.new_schema()), "sample": sample, "in_flight": IN_FLIGHT}
        return await bench.side("benchmarks.postgres:by_hand", seconds=seconds, **arguments)

    sides = {name: partial(workers, count) for name, count in WORKERS.items()}
    rounds = await bench.in_turns({**sides, "floor": floor})
    by_hand = column(rounds["floor"], "rate", "tasks/s")
    rates = {name: column(rounds[name], "rate", "tasks/s") for name in WORKERS}
    one = rates["one worker"]
    return [
        compared(
            f"whole lifecycle on PostgreSQL, {name}, {IN_FLIGHT} in flight",
            rate,
            by_hand,
            target=f">= {MIN_SHARE}" if rate is one else "not slower than one",
            meets=(lambda share, _: share >= MIN_SHARE)
            if rate is one
            else lambda _, rate: rate >= one.median,
            note=f"p50 {column(rounds[name], 'p50_ms', 'ms', 1)}, "
            f"floor {column(rounds['floor'], 'p50_ms', 'ms', 1)}, 5 commits awaited",
        )
        for name, rate in rates.items()
    ]


async def ours(folder: str, url: str, in_flight: int, seconds: float) -> dict[str, float]:
    """One worker, with its share of the clients."""
    stand = build_stand(folder, host=RUNTIMES["postgres"], database=url)
    async with stand.running():
        seen = await drive(stand.task, in_flight=in_flight, seconds=seconds, warm_up_seconds=warm_up(seconds))
    return seen.summary()


async def by_hand(
    folder: str, url: str, sample: dict[str, Any], in_flight: int, seconds: float
) -> dict[str, float]:
    """The floor's side."""
    floor = Floor(Writer(url), sample, commits=5, model=InstantModel())
    body = to_json(request())
    collect_young()

    async def task() -> None:
        assert await floor.finish(await floor.accept(body))

    seen = await drive(task, in_flight=in_flight, seconds=seconds, warm_up_seconds=warm_up(seconds))
    return seen.summary()


class Writer:
    """One thread that writes; what waits shares a commit."""

    def __init__(self, url: str) -> None:
        import psycopg

        self._loop = asyncio.get_running_loop()
        self._connection = psycopg.connect(url)
        self._connection.execute(SCHEMA.replace("BLOB", "BYTEA").replace(" WITHOUT ROWID", "").encode())
        self._connection.commit()
        self._waiting: queue.SimpleQueue[tuple[Rows, asyncio.Future[None]]] = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()

    def commit(self, rows: Rows) -> asyncio.Future[None]:
        """Write rows; the future is done when they are durable."""
        durable = self._loop.create_future()
        self._waiting.put((rows, durable))
        return durable

    def _write(self) -> None:
        while True:
            group = [self._waiting.get()]
            while not self._waiting.empty():
                group.append(self._waiting.get())
            by_table: dict[str, dict[Any, tuple[Any, ...]]] = defaultdict(dict)
            for rows, _ in group:
                for table, row in rows:
                    by_table[table][row[0] if table in ("documents", "tasks") else len(by_table[table])] = row
            with self._connection.transaction():
                for table, wanted in by_table.items():
                    self._insert(table, list(wanted.values()))
            self._connection.commit()
            self._loop.call_soon_threadsafe(tell, [durable for _, durable in group])

    def _insert(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        row = f"({','.join(['%s'] * COLUMNS[table])})"
        then = {
            "documents": "ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, body = excluded.body",
            "tasks": "ON CONFLICT (task_id) DO UPDATE SET status = excluded.status",
        }.get(table, "")
        for start in range(0, len(rows), 100):
            chunk = rows[start : start + 100]
            statement = f"INSERT INTO {table} VALUES {','.join([row] * len(chunk))} {then}"
            self._connection.execute(statement.encode(), [value for row in chunk for value in row])

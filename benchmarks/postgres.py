"""A task's whole lifecycle on PostgreSQL, with 1 to 8 workers, beside the same rows by hand with as many.

The CPU of a task is that of the workers, with their writers, and that of the server's processes meanwhile.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from pydantic_core import to_json

from benchmarks.bench import Bench
from benchmarks.dapr_load import cpu_seconds
from benchmarks.figures import Row, column, compared, ratio
from benchmarks.floor import COLUMNS, SCHEMA, Floor, Rows, tell
from benchmarks.instant import InstantModel, request
from benchmarks.lifecycle import SECONDS, Meter, warm_up
from benchmarks.load import drive
from benchmarks.scale.distance import relayed
from benchmarks.scale.study import compared_row, costs_of, store
from benchmarks.stand import build_stand
from meshwright.cli.serving import collect_young
from meshwright.mesh.app import RUNTIMES
from tests.support.postgres import Cluster, postgres_programs

DURABLE = {"fsync": "on", "full_page_writes": "on"}
WORKERS = (1, 2, 4, 8)
MIN_SHARES = {1: 0.45, 2: 0.45, 4: 0.4}
"""Of the floor's rate, by workers, with 128 tasks in flight."""
MIN_RATE, MAX_COST = 0.8, {8: 1.4, 128: 1.3}
"""Rate and CPU of a task with 8 workers, of those with one; the CPU by tasks in flight."""

AWAY_MS, MAX_TRIPS = 5.0, 8
"""How far the server is for the row that counts round trips."""

_SEQS = 100_000_000  # for the events of each worker of the floor


async def measure(bench: Bench) -> list[Row]:
    programs = postgres_programs()
    if programs is None:
        return [Row("whole lifecycle on PostgreSQL", "not run: PostgreSQL is not installed")]
    cluster = Cluster(programs, DURABLE)
    try:
        await asyncio.to_thread(cluster.create)
        lone, full = await _rounds(bench, cluster, 1, (1,)), dict[str, Any]()
        rows: list[Row] = []
        for in_flight in MAX_COST:
            full[in_flight] = await _rounds(bench, cluster, in_flight, WORKERS)
            rows += [_row(count, in_flight, full[in_flight]) for count in WORKERS]
        away = await _away(bench, cluster)
        costs = costs_of(lone["1 of 1"], full[max(MAX_COST)][f"1 of {max(MAX_COST)}"])
        store(costs)
        return [
            _lone_row(lone),
            _away_row(lone["1 of 1"], away),
            *rows,
            *(
                compared_row(costs, count, in_flight, column(rounds[f"{count} of {in_flight}"], "rate"))
                for in_flight, rounds in full.items()
                for count in WORKERS
            ),
        ]
    finally:
        cluster.remove()


async def _rounds(
    bench: Bench, cluster: Cluster, in_flight: int, workers: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    sample, seconds = await bench.sample(), bench.seconds(SECONDS)

    async def together(function: str, count: int, **arguments: Any) -> dict[str, Any]:
        arguments |= {"url": str(cluster.new_schema()), "in_flight": in_flight // count, "seconds": seconds}
        each: list[dict[str, Any]] = [arguments] * count
        if "sample" in arguments:
            await asyncio.to_thread(_make_tables, arguments["url"])
            each = [{**arguments, "last_seq": number * _SEQS} for number in range(count)]
        results = await asyncio.gather(*(bench.side(function, **own) for own in each))
        rate = sum(result["rate"] for result in results)
        server = results[0]["server_s"] / results[0]["total_s"] * 1000 / rate
        cpu = sum(result["cpu_ms"] * result["rate"] for result in results) / rate
        return {
            **{name: results[0].get(name, 0.0) for name in ("p50_ms", "loop_ms", "groups")},
            "rate": rate,
            "cpu_ms": cpu + server,
            "server_ms": server,
        }

    sides: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {}
    for count in workers:
        sides[f"{count} of {in_flight}"] = partial(together, "benchmarks.postgres:ours", count)
        by_hand = partial(together, "benchmarks.postgres:by_hand", count, sample=sample)
        sides[f"floor, {count} of {in_flight}"] = by_hand
    return await bench.in_turns(sides)


async def _away(bench: Bench, cluster: Cluster) -> list[dict[str, Any]]:
    """Rounds of one task at a time, with the server some milliseconds away."""

    async def ours() -> dict[str, Any]:
        url = str(cluster.new_schema()).replace(f":{cluster.port}/", f":{port}/")
        seen = await bench.side(
            "benchmarks.postgres:ours", url=url, in_flight=1, seconds=bench.seconds(SECONDS)
        )
        return {**seen, "trip_ms": await asyncio.to_thread(_trip_ms, url)}

    async with relayed(cluster.port, AWAY_MS / 1000) as port:
        return (await bench.in_turns({"ours": ours}))["ours"]


def _trip_ms(url: str) -> float:
    """The milliseconds that a round trip takes."""
    import psycopg

    times: list[float] = []
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(20):
            began = time.perf_counter()
            connection.execute("SELECT 1")
            times.append((time.perf_counter() - began) * 1000)
    return median(times)


def _away_row(near: list[dict[str, Any]], away: list[dict[str, Any]]) -> Row:
    far, own = column(away, "p50_ms", "ms", 1), column(near, "p50_ms", "ms", 1)
    trips = (far.median - own.median) / column(away, "trip_ms").median
    return Row(
        f"p50 of a task, PostgreSQL {AWAY_MS:g} ms away",
        far,
        own,
        f"+{trips:.1f} round trips",
        f"<= {MAX_TRIPS} round trips",
        trips <= MAX_TRIPS,
        f"beside a server on the same machine; a round trip took {column(away, 'trip_ms', 'ms', 1)}",
    )


def _lone_row(rounds: dict[str, list[dict[str, Any]]]) -> Row:
    """One task at a time: what a commit costs alone."""
    ours, floor = rounds["1 of 1"], rounds["floor, 1 of 1"]
    return compared(
        "whole lifecycle on PostgreSQL, 1 worker, 1 in flight",
        column(ours, "rate", "tasks/s"),
        column(floor, "rate", "tasks/s"),
        note=f"p50 {column(ours, 'p50_ms', 'ms', 1)}; CPU of a task {column(ours, 'cpu_ms', 'ms', 1)}, of it "
        f"the server {column(ours, 'server_ms', 'ms', 1)}, floor {column(floor, 'cpu_ms', 'ms', 1)}; "
        f"{column(ours, 'groups', '', 1)} transactions",
    )


def _row(count: int, in_flight: int, rounds: dict[str, list[dict[str, Any]]]) -> Row:
    ours, floor = rounds[f"{count} of {in_flight}"], rounds[f"floor, {count} of {in_flight}"]
    one = rounds[f"1 of {in_flight}"]
    rate, cost = column(ours, "rate", "tasks/s"), column(ours, "cpu_ms", "ms", 1)
    to_one = ratio(rate, column(one, "rate")), ratio(cost, column(one, "cpu_ms"))
    least, most = MIN_SHARES.get(count, 0.0) if in_flight == 128 else 0.0, MAX_COST[in_flight]
    targets = [f">= {least}"] if least else []
    targets += [f"rate >= {MIN_RATE} and CPU <= {most} of one worker's"] if count == 8 else []
    workers = "1 worker" if count == 1 else f"{count} workers"
    return compared(
        f"whole lifecycle on PostgreSQL, {workers}, {in_flight} in flight",
        rate,
        column(floor, "rate", "tasks/s"),
        target=", ".join(targets),
        meets=(lambda share, _: share >= least and (count < 8 or _holds(to_one, most))) if targets else None,
        note=f"p50 {column(ours, 'p50_ms', 'ms', 1)}; CPU of a task {cost}, of it the server "
        f"{column(ours, 'server_ms', 'ms', 1)}, floor {column(floor, 'cpu_ms', 'ms', 1)}; "
        f"of one worker's: rate {to_one[0]:.2f}, CPU {to_one[1]:.2f}",
    )


def _holds(to_one: tuple[float, float], most: float) -> bool:
    return to_one[0] >= MIN_RATE and to_one[1] <= most


async def ours(folder: str, url: str, in_flight: int, seconds: float) -> dict[str, float]:
    """One worker, with its share of the clients."""
    stand = build_stand(folder, runtime=RUNTIMES["postgres"], database=url)
    async with stand.running():
        return await _load(stand.task, Meter(stand.writer_pid), url, in_flight, seconds)


async def by_hand(
    folder: str, url: str, sample: dict[str, Any], in_flight: int, seconds: float, last_seq: int
) -> dict[str, float]:
    """The floor's side."""
    floor = Floor(Writer(url), sample, commits=5, model=InstantModel(), last_seq=last_seq)
    body = to_json(request())
    collect_young()

    async def task() -> None:
        assert await floor.finish(await floor.accept(body))

    return await _load(task, Meter(), url, in_flight, seconds)


async def _load(
    task: Callable[[], Awaitable[object]], own: Meter, url: str, in_flight: int, seconds: float
) -> dict[str, float]:
    before, first_group = await asyncio.to_thread(_server_used, url)
    warming = warm_up(seconds)
    seen = await drive(task, in_flight=in_flight, seconds=seconds, warm_up_seconds=warming)
    used = own.read()
    after, last_group = await asyncio.to_thread(_server_used, url)
    server_s = sum(used - before.get(pid, 0.0) for pid, used in after.items())
    return {
        **seen.summary(),
        "cpu_ms": used["cpu"] * 1000 / seen.total,
        "loop_ms": used["loop"] * 1000 / seen.total,
        "server_s": server_s,
        "total_s": seconds + warming,
        "groups": (last_group - first_group) / seen.total,
    }


def _server_used(url: str) -> tuple[dict[int, float], int]:
    """The CPU that each process of the server has used so far, and the number of its last write."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        pids = connection.execute("SELECT pid FROM pg_stat_activity").fetchall()
        [(number,)] = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchall()
    return {pid: cpu_seconds(pid) for (pid,) in pids}, number


def _make_tables(url: str) -> None:
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute(SCHEMA.replace("BLOB", "BYTEA").replace(" WITHOUT ROWID", "").encode())


class Writer:
    """One thread that writes; what waits shares a commit."""

    def __init__(self, url: str) -> None:
        import psycopg

        self._loop = asyncio.get_running_loop()
        self._connection = psycopg.connect(url)
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

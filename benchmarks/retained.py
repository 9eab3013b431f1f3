"""Many tasks with retention on: file, memory and rate as they go by, and how a large store opens."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row
from benchmarks.grown import grow
from benchmarks.machine import rss_mb
from benchmarks.sides import run_side, side
from benchmarks.stand import Stand, build_stand
from meshwright.core.clock import SystemClock
from meshwright.core.messages import Caller
from meshwright.parts.retention.operations import Retention

IN_FLIGHT = 128
PARTS = 10
SPEED = 40  # of the clock: the shortest age of retention is a quarter of an hour
KEEP_DAYS = 0.01
KEEP_EVENTS_SECONDS = KEEP_DAYS * 86_400 / SPEED
PRUNE_SECONDS = 5.0
OPENS = 5
MAX_GROWTH, MAX_LOSS, MAX_OPEN_SECONDS = 0.05, 0.1, 0.5
ADMIN = Caller(requested_by="benchmark", all_tenants=True, roles=frozenset({"admin"}))


class FastClock(SystemClock):
    """A clock on which time goes by faster."""

    def __init__(self) -> None:
        self._began = super().now()

    def now(self) -> datetime:
        return self._began + (super().now() - self._began) * SPEED

    async def sleep_until(self, when: datetime) -> None:
        await asyncio.sleep(max(timedelta(), when - self.now()).total_seconds() / SPEED)


async def measure(bench: Bench, tasks: int, max_seconds: float) -> list[Row]:
    with bench.folder() as folder:
        arguments = {"folder": str(folder), "tasks": tasks}
        async with side("benchmarks.retained:ours", **arguments) as running:
            found = await running.next(max_seconds)
    rates, sizes, memory = found["rates"], found["mb"], found["rss_mb"]
    loss, growth = 1 - rates[-1] / rates[0], memory[-1] / memory[PARTS // 4] - 1
    bench.say(f"by tenths: {rates} tasks/s, {found['cpu_us']} µs of CPU a task beside the writer's")
    bench.say(f"{sizes} MB on disk, {memory} MB of memory")
    return [
        Row(
            f"rate over {tasks:,} tasks with retention, the last tenth",
            f"{rates[-1]:,.0f} tasks/s",
            f"{rates[0]:,.0f} tasks/s in the first",
            f"{-loss:+.1%}",
            ">= -10 %",
            loss <= MAX_LOSS,
        ),
        Row(
            "memory, the last tenth beside the third",
            f"{memory[-1]:.1f} MB",
            f"{memory[PARTS // 4]:.1f} MB",
            f"{growth:+.1%}",
            "<= +5 %",
            growth <= MAX_GROWTH,
        ),
        Row(
            "file, the last tenth beside the third",
            f"{sizes[-1]:,.0f} MB",
            f"{sizes[PARTS // 4]:,.0f} MB",
            f"{found['kept_bytes']:,.0f} bytes a pruned task",
        ),
        await open_row(bench, tasks),
    ]


async def open_row(bench: Bench, tasks: int) -> Row:
    """The time to open a store with so many tasks, beside an empty one."""
    seconds: dict[str, list[float]] = {"full": [], "empty": []}
    with bench.folder() as folder:
        for name in seconds:
            await run_side("benchmarks.retained:opened", folder=str(folder / name))
        grow(folder / "full", tasks)
        for _ in range(OPENS):
            for name, times in seconds.items():
                times.append((await run_side("benchmarks.retained:opened", folder=str(folder / name)))["s"])
    full, empty = median(seconds["full"]), median(seconds["empty"])
    return Row(
        f"a store of {tasks:,} tasks opens",
        f"{full:.2f} s",
        f"{empty:.2f} s an empty one",
        f"{full - empty:+.2f} s",
        "<= +0.5 s",
        full - empty <= MAX_OPEN_SECONDS,
    )


async def opened(folder: str) -> dict[str, float]:
    """Start a mesh on a folder, do one task, and stop; the time of the start."""
    stand = build_stand(folder)
    started = time.perf_counter()
    async with stand.running():
        seconds = time.perf_counter() - started
        await stand.task()
        await stand.mesh.log.flush()
    return {"s": seconds}


async def ours(folder: str, tasks: int) -> dict[str, Any]:
    """Run tasks by tenths, while old ones are pruned."""
    stand = build_stand(
        folder,
        clock=FastClock(),
        figures={"refresh_seconds": 5.0 * SPEED},
        retention={"succeeded_days": KEEP_DAYS, "records_days": KEEP_DAYS},
    )
    found: dict[str, list[float]] = {"rates": [], "cpu_us": [], "mb": [], "rss_mb": []}
    async with stand.running():
        pruning = [asyncio.create_task(prune(stand)) for prune in (_prune_tasks, _prune_events)]
        for _ in range(PARTS):
            started, cpu = time.perf_counter(), time.process_time()
            await _run(stand, tasks // PARTS)
            found["cpu_us"].append(round((time.process_time() - cpu) * 1e6 * PARTS / tasks))
            found["rates"].append(round(tasks / PARTS / (time.perf_counter() - started)))
            found["mb"].append(_megabytes(folder))
            found["rss_mb"].append(rss_mb())
        for task in pruning:
            task.cancel()
    return {**found, "kept_bytes": max(0.0, found["mb"][-1] - found["mb"][2]) * 1e6 / (tasks * 0.7)}


async def _run(stand: Stand, tasks: int) -> None:
    left = iter(range(tasks))

    async def client() -> None:
        for _ in left:
            await stand.task()

    await asyncio.gather(*(client() for _ in range(IN_FLIGHT)))


async def _prune_tasks(stand: Stand) -> None:
    """Do every few seconds what a mesh does every hour."""
    while True:
        await asyncio.sleep(PRUNE_SECONDS)
        while (await stand.mesh.get(Retention).prune(ADMIN)).has_more:
            pass


async def _prune_events(stand: Stand) -> None:
    while True:
        await asyncio.sleep(PRUNE_SECONDS)
        await stand.mesh.log.prune(keep_seconds=KEEP_EVENTS_SECONDS)


def _megabytes(folder: str) -> float:
    return round(sum(path.stat().st_size for path in Path(folder).glob("mesh.db*")) / 1e6, 1)

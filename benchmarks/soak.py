"""Memory over many tasks: the last quarter beside the second."""

from __future__ import annotations

import asyncio
import time

from benchmarks.bench import Bench
from benchmarks.figures import Row
from benchmarks.machine import rss_mb
from benchmarks.sides import side
from benchmarks.stand import build_stand

IN_FLIGHT = 128
SAMPLE_SECONDS = 0.5
MAX_GROWTH = 0.05


async def measure(bench: Bench, tasks: int, max_seconds: float) -> list[Row]:
    with bench.folder() as folder:
        async with side(
            "benchmarks.soak:ours", folder=str(folder), tasks=tasks, max_seconds=max_seconds
        ) as running:
            result = await running.next(max_seconds + 60)
    second, last = result["second_mb"], result["last_mb"]
    growth = last / second - 1
    return [
        Row(
            f"memory over {result['tasks']:,} tasks",
            f"{last:.1f} MB in the last quarter",
            f"{second:.1f} MB in the second",
            f"{growth:+.1%}",
            "<= +5 %",
            growth <= MAX_GROWTH,
            f"{result['tasks'] / result['seconds']:,.0f} tasks/s over {result['seconds']:.0f} s, "
            f"{result['bytes'] / result['tasks'] / 1000:.1f} KB on disk a task",
        )
    ]


async def ours(folder: str, tasks: int, max_seconds: float) -> dict[str, float]:
    """Run tasks until there were so many, or the time is up; sample the memory."""
    stand = build_stand(folder)
    samples: list[float] = []
    started = time.perf_counter()
    done = 0

    async def client() -> None:
        nonlocal done
        while done + IN_FLIGHT <= tasks and time.perf_counter() - started < max_seconds:
            await stand.task()
            done += 1

    async def sample() -> None:
        while True:
            samples.append(rss_mb())
            await asyncio.sleep(SAMPLE_SECONDS)

    async with stand.running():
        sampling = asyncio.create_task(sample())
        await asyncio.gather(*(client() for _ in range(IN_FLIGHT)))
        sampling.cancel()
        size = (await stand.written())["bytes"]
    quarter = max(1, len(samples) // 4)
    return {
        "tasks": done,
        "seconds": time.perf_counter() - started,
        "second_mb": max(samples[quarter : 2 * quarter]),
        "last_mb": max(samples[-quarter:]),
        "bytes": size,
    }

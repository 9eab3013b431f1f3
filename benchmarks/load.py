"""Load: so many clients in a closed loop, what they saw, and how long the event loop stalled meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from benchmarks.figures import percentile

BEAT_SECONDS = 0.002


@dataclass
class Seen:
    """What finished within the window: latencies in seconds. `total` counts the warm-up too."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    total: int = 0

    def summary(self) -> dict[str, float]:
        return {
            "rate": len(self.latencies) / self.seconds,
            "p50_ms": percentile(self.latencies, 0.5) * 1000,
            "p99_ms": percentile(self.latencies, 0.99) * 1000,
            "mean_ms": sum(self.latencies) / len(self.latencies) * 1000,
        }


async def drive(
    work: Callable[[], Awaitable[object]],
    *,
    in_flight: int,
    seconds: float,
    warm_up_seconds: float,
    spread_seconds: float = 0.0,
) -> Seen:
    """Keep so many pieces of work in flight; count those that end within the window after the warm-up.

    `spread_seconds` spaces the clients' starts evenly.
    """
    begins = time.perf_counter() + spread_seconds + warm_up_seconds
    ends = begins + seconds
    seen = Seen(seconds)

    async def client(number: int) -> None:
        await asyncio.sleep(spread_seconds * number / in_flight)
        while (started := time.perf_counter()) < ends:
            await work()
            ended = time.perf_counter()
            seen.total += 1
            if begins <= ended < ends:
                seen.latencies.append(ended - started)
            elif ended >= ends and not seen.latencies:  # a loaded machine: one piece outlasted the window
                seen.latencies.append(ended - started)
                seen.seconds = ended - begins

    await asyncio.gather(*(client(number) for number in range(in_flight)))
    return seen


@dataclass
class Stalls:
    """How late the event loop was with a task that should have run every 2 ms."""

    max_seconds: float = 0.0


@asynccontextmanager
async def watching_stalls() -> AsyncIterator[Stalls]:
    """Measure within a block how long the loop kept a waiting task waiting."""
    stalls = Stalls()

    async def beat() -> None:
        while True:
            due = time.perf_counter() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            stalls.max_seconds = max(stalls.max_seconds, time.perf_counter() - due)

    task = asyncio.create_task(beat())
    try:
        yield stalls
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

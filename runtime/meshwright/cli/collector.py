"""How a process that serves collects garbage: new objects alone, and all of them when nobody waits.

The collector walks every object that it looks at while the event loop stands still, about a microsecond each.
A mesh leaves no circles behind (a test holds that), so almost everything is freed without it; what agents and
libraries leave is found when the process is idle, or when too much has been set aside.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

YOUNG_OBJECTS = 5_000  # that one collection walks: 5 to 10 ms
NEVER = 1_000_000_000  # collections of the young before an older generation is collected
CHECK_SECONDS = 60.0
IDLE_OBJECTS = 50_000  # set aside since the last full collection: worth another while nothing runs
_BUSY_OBJECTS = 2_000_000  # the same while work runs; the walk stalls the loop, a leak would end the process


def collect_young() -> None:
    """Let the collector walk new objects alone, some thousands at a time, and each object once."""
    _collect_all()
    gc.set_threshold(YOUNG_OBJECTS, NEVER, NEVER)
    if _set_aside not in gc.callbacks:
        gc.callbacks.append(_set_aside)


@asynccontextmanager
async def collecting(
    is_idle: Callable[[], bool], check_seconds: float = CHECK_SECONDS
) -> AsyncGenerator[None]:
    """Collect young objects within a block, and everything now and then when `is_idle()`."""
    collect_young()
    watching = _collect_when_idle(is_idle, check_seconds, gc.get_freeze_count())
    task = asyncio.create_task(watching, name="garbage collection")
    try:
        yield
    finally:
        task.cancel()


async def _collect_when_idle(is_idle: Callable[[], bool], check_seconds: float, known: int) -> None:
    while True:
        await asyncio.sleep(check_seconds)
        added = gc.get_freeze_count() - known
        if added > (IDLE_OBJECTS if is_idle() else _BUSY_OBJECTS):
            _collect_all()
            known = gc.get_freeze_count()


def _collect_all() -> None:
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _set_aside(phase: str, info: dict[str, int]) -> None:
    """Keep what survived a collection of the young from being walked again."""
    if phase == "stop" and info["generation"] == 0:
        gc.freeze()

"""A runtime in memory, and time that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from meshwright.core.clock import Clock
from meshwright.events.log import EventLog
from meshwright.kernel.runtime import Runtime
from meshwright.sql.database import Database
from meshwright.stores.memory import Faults, MemoryData, MemoryStore

RuntimeT = TypeVar("RuntimeT", bound=Runtime)
_SETTLING_PASSES = 100  # passes of the event loop in which what is due may run before time goes on
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A clock to move by hand: nothing that waits for it waits in real time.

    It starts at `now`, or else at the beginning of 2026.
    """

    def __init__(self, now: datetime = BEGINNING) -> None:
        self._now = now
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        """The time now, in UTC."""
        return self._now

    async def sleep_until(self, when: datetime) -> None:
        """Return once the clock has been moved to that time, at once if it has passed."""
        if when <= self._now:
            await asyncio.sleep(0)
            return
        alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (when, next(self._order), alarm))
        await alarm

    async def advance(self, seconds: float) -> None:
        """Move ahead by that much, stopping wherever somebody sleeps until, so that what is due can run.

        Work that a turn starts in another thread or process may still be under way on return: wait for the
        event that tells its end.
        """
        end = self._now + timedelta(seconds=seconds)
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now = self._sleepers[0][0]
            while self._sleepers and self._sleepers[0][0] <= self._now:
                _, _, alarm = heapq.heappop(self._sleepers)
                if not alarm.done():  # the sleeper may have been cancelled
                    alarm.set_result(None)
            await self._settle()
        self._now = end
        await self._settle()

    async def _settle(self) -> None:
        for _ in range(_SETTLING_PASSES):
            await asyncio.sleep(0)


def memory_runtime(
    clock: Clock | None = None,
    *,
    sort: type[RuntimeT] = Runtime,  # type: ignore[assignment]
    data: MemoryData | None = None,
    log: EventLog | None = None,
    database: Database | None = None,
    faults: Faults | None = None,
    **options: Any,
) -> RuntimeT:
    """A runtime in memory, of a subclass if you name a `sort`; the options are those of `Runtime`.

    Runtimes on the same `data` stand for workers that share a store. `log` gets every event, and its
    `database` is opened and closed with the runtime. `faults` brings about what may go wrong.
    """
    store = MemoryStore(data, log=log, database=database, faults=faults)
    return sort(store, clock=clock, strict=True, **options)

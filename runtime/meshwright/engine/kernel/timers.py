"""Timers: alarms of actors, kept in their records with only those due soon in memory, and regular duties."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta

from meshwright.core.clock import Clock
from meshwright.core.errors import HostError
from meshwright.engine.kernel.envelope import ActorRef

_logger = logging.getLogger(__name__)
_HORIZON = timedelta(seconds=60)  # alarms further off are left to the store
_SWEEP = timedelta(seconds=30)  # how often the store is asked for those that came within the horizon


class Timers:
    """Rings alarms when they are due; whether one was moved or cleared meanwhile is for the turn to see."""

    def __init__(
        self,
        clock: Clock,
        load_due: Callable[[datetime], Iterable[tuple[ActorRef, datetime]]],
        ring: Callable[[ActorRef], None],
    ) -> None:
        self._clock = clock
        self._load_due = load_due
        self._ring = ring
        self._heap: list[tuple[datetime, ActorRef]] = []
        self._horizon: datetime | None = None
        self._sweep_at: datetime | None = None
        self._earlier = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch the clock, again after `stop`; overdue alarms ring at once."""
        self._horizon = self._sweep_at = None
        self._task = asyncio.create_task(self._run(), name="timers")

    async def stop(self) -> None:
        """Stop watching; the store keeps the alarms."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._heap.clear()

    def note(self, ref: ActorRef, wake_at: datetime) -> None:
        """An actor has set its alarm."""
        if self._horizon is not None and wake_at > self._horizon:
            return  # the next sweep finds it; before the first one it may be too late for that
        earliest = self._heap[0][0] if self._heap else None
        heapq.heappush(self._heap, (wake_at, ref))
        if earliest is None or wake_at < earliest:
            self._earlier.set()

    async def _run(self) -> None:
        while True:
            now = self._clock.now()
            if self._sweep_at is None or not now <= self._sweep_at <= now + _SWEEP:
                self._sweep(now)
            while self._heap and self._heap[0][0] <= now:
                self._ring(heapq.heappop(self._heap)[1])
            await self._wait()

    def _sweep(self, now: datetime) -> None:
        self._sweep_at = now + _SWEEP
        self._horizon = now + _HORIZON
        earliest: dict[ActorRef, datetime] = {}
        for wake_at, ref in self._heap:
            earliest[ref] = min(wake_at, earliest.get(ref, wake_at))
        for ref, wake_at in self._load_due(self._horizon):
            if ref not in earliest or wake_at < earliest[ref]:
                heapq.heappush(self._heap, (wake_at, ref))

    async def _wait(self) -> None:
        assert self._sweep_at is not None
        next_at = min(self._heap[0][0], self._sweep_at) if self._heap else self._sweep_at
        self._earlier.clear()
        waits = {
            asyncio.ensure_future(self._clock.sleep_until(next_at)),
            asyncio.ensure_future(self._earlier.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def every(clock: Clock, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do something now and then every so many seconds, until cancelled."""
    is_put_off = False
    while True:
        try:
            await work()
            is_put_off = False
        except HostError as error:
            if not is_put_off:  # said once: an outage may last
                _logger.warning("a regular duty is put off: %s", error)
            is_put_off = True
        except Exception:  # whatever it was, the duty does not end for good
            _logger.exception("a regular duty failed, and is tried again in %g s", seconds)
        await clock.sleep_until(clock.now() + timedelta(seconds=seconds))


class Duty:
    """Does something when it starts, and then every so many seconds until it stops. Both are idempotent."""

    def __init__(
        self, clock: Clock, seconds: float, work: Callable[[], Awaitable[None]], name: str | None = None
    ) -> None:
        self._clock, self._seconds, self._work, self._name = clock, seconds, work, name
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        if self._task is None:
            work = every(self._clock, self._seconds, self._work)
            self._task = asyncio.create_task(work, name=self._name)

    async def stop(self) -> None:
        """End, in the middle of the work too."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

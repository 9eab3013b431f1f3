"""Alarms: one for each actor that this worker watches, rung at the time its head names."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import datetime

from meshwright.clock import Clock
from meshwright.envelope import ActorRef

MAX_STALE = 1000  # entries of alarms that were set anew or cleared, before they are swept


class Alarms:
    """Rings at the time that an actor asked for. What they were set to is in the heads, and outlives this."""

    def __init__(self, clock: Clock, ring: Callable[[ActorRef], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._times: dict[ActorRef, datetime] = {}
        self._heap: list[tuple[datetime, ActorRef]] = []
        self._waiting: asyncio.Task[None] | None = None
        self._waits_until: datetime | None = None

    def set(self, ref: ActorRef, when: datetime | None) -> None:
        """Set an actor's one alarm, or clear it."""
        if when is None:
            self._times.pop(ref, None)
        elif when != self._times.get(ref):
            self._times[ref] = when
            heapq.heappush(self._heap, (when, ref))
            self._sweep()
            if self._waits_until is None or when < self._waits_until:
                self._wait_again()

    def clear(self) -> None:
        """End all waiting."""
        self._times.clear()
        self._heap.clear()
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self._waits_until = None

    def _sweep(self) -> None:
        if len(self._heap) > 2 * len(self._times) + MAX_STALE:
            self._heap = [(when, ref) for ref, when in self._times.items()]
            heapq.heapify(self._heap)

    def _wait_again(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waits_until = self._heap[0][0]
        self._waiting = asyncio.create_task(self._wait(), name="alarms")

    async def _wait(self) -> None:
        while self._heap:
            self._waits_until = self._heap[0][0]
            await self._clock.sleep_until(self._waits_until)
            self._ring_due()
        self._waiting = self._waits_until = None

    def _ring_due(self) -> None:
        now = self._clock.now()
        while self._heap and self._heap[0][0] <= now:
            when, ref = heapq.heappop(self._heap)
            if self._times.get(ref) == when:
                del self._times[ref]
                self._ring(ref)

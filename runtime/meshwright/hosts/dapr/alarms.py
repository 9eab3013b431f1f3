"""Alarms: one for each actor that this worker watches, rung at the time its head names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from meshwright.clock import Clock
from meshwright.envelope import ActorRef


class Alarms:
    """Rings at the time that an actor asked for. What they were set to is in the heads, and outlives this."""

    def __init__(self, clock: Clock, ring: Callable[[ActorRef], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._times: dict[ActorRef, datetime] = {}
        self._tasks: dict[ActorRef, asyncio.Task[None]] = {}

    def set(self, ref: ActorRef, when: datetime | None) -> None:
        """Set an actor's one alarm, or clear it."""
        if when == self._times.get(ref):
            return
        earlier = self._tasks.pop(ref, None)
        if earlier is not None:
            earlier.cancel()
        self._times.pop(ref, None)
        if when is not None:
            self._times[ref] = when
            self._tasks[ref] = asyncio.create_task(self._wait(ref, when), name=f"alarm {ref}")

    def clear(self) -> None:
        """End all waiting."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        self._times.clear()

    async def _wait(self, ref: ActorRef, when: datetime) -> None:
        await self._clock.sleep_until(when)
        del self._tasks[ref], self._times[ref]  # before it rings: who sets the next must not cancel this one
        self._ring(ref)

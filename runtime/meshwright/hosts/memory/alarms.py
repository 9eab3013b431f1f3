"""Alarms: a task for each that sleeps until its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from meshwright.clock import Clock
from meshwright.envelope import ActorRef

Begin = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Alarms:
    """Rings for each actor at the time it asked for. What they were set to outlives a crash in the heads."""

    def __init__(self, clock: Clock, begin: Begin, ring: Callable[[ActorRef, datetime], None]) -> None:
        self._clock = clock
        self._begin = begin
        self._ring = ring
        self._tasks: dict[ActorRef, asyncio.Task[None]] = {}

    def set(self, ref: ActorRef, when: datetime | None) -> None:
        """Set an actor's one alarm, or clear it."""
        earlier = self._tasks.pop(ref, None)
        if earlier is not None:
            earlier.cancel()
        if when is not None:
            self._tasks[ref] = self._begin(self._wait(ref, when), f"alarm {ref}")

    def clear(self) -> None:
        """End all waiting."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _wait(self, ref: ActorRef, when: datetime) -> None:
        await self._clock.sleep_until(when)
        del self._tasks[ref]  # before it rings: who sets the next must not cancel this one
        self._ring(ref, when)

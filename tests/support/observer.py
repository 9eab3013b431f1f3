"""Watching what a host tells, and waiting for it: by events, never by the clock."""

import asyncio
from collections.abc import Callable
from typing import Any

from meshwright.core.events import Event
from meshwright.engine.kernel.envelope import ActorRef

PATIENCE_SECONDS = 60


class Watch:
    def __init__(self) -> None:
        self.events: dict[str, Event] = {}
        self._changed = asyncio.Event()

    def take(self, event: Event) -> None:
        self.events.setdefault(event.id, event)
        self._changed.set()

    def of(self, event_type: str) -> list[Event]:
        return [event for event in self.events.values() if event.event_type == event_type]

    def texts(self, event_type: str = "line.written") -> list[str]:
        return [event.payload["text"] for event in self.of(event_type)]

    async def until(self, condition: Callable[[], bool]) -> None:
        await eventually(condition, self._changed)

    async def written(self, *texts: str) -> None:
        """Wait until these lines, at least, were written."""
        await self.until(lambda: set(texts) <= set(self.texts()))

    async def dead_letters(self, count: int = 1) -> list[Event]:
        """Wait until so many messages were refused."""
        await self.until(lambda: len(self.of("message.dead_lettered")) >= count)
        return self.of("message.dead_lettered")


class Worker:
    """Takes the signals of turns; `on_signal` is called with each as it comes."""

    def __init__(self, on_signal: Callable[[Any], None] = lambda signal: None) -> None:
        self.signals: list[tuple[ActorRef, Any]] = []
        self._on_signal = on_signal
        self._changed = asyncio.Event()

    def signal(self, ref: ActorRef, signal: Any) -> None:
        self._on_signal(signal)
        self.signals.append((ref, signal))
        self._changed.set()

    def reserve(self, request: Any) -> None:
        return None

    def lease_lost(self) -> None:
        self.signals.clear()

    async def until(self, ref: ActorRef, signal: Any) -> None:
        """Wait until that signal has come."""
        await eventually(lambda: (ref, signal) in self.signals, self._changed)


async def eventually(condition: Callable[[], bool], changed: asyncio.Event) -> None:
    """Wait for a condition, looking at it whenever `changed` is set."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            changed.clear()
            await changed.wait()

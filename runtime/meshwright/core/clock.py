"""Time: the clock of a mesh, which tests move by hand, pauses between tries, and waits that end early."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

ResultT = TypeVar("ResultT")
_DURATION = re.compile(r"([0-9]{1,6})([smhdw])")
_LOOK_SECONDS = 10.0  # between looks at the wall clock, which may be set, or go on while the machine sleeps
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """The duration of a text like `24h` (s, m, h, d or w). Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is no duration like 30m, 24h or 30d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


class Clock(Protocol):
    """Tells the time and waits for it. `now` may jump, where somebody sets the clock of the machine."""

    def now(self) -> datetime:
        """The time now, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment: to measure how long things take, since it never jumps."""
        ...

    async def sleep_until(self, when: datetime) -> None:
        """Return at that time, at once if it has passed. A clock that is set back does not delay it."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The time now, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    async def sleep_until(self, when: datetime) -> None:
        """Return at that time, at once if it has passed; some seconds late where the clock is set forward."""
        seconds = max(0.0, (when - self.now()).total_seconds())
        while seconds > _LOOK_SECONDS:
            await asyncio.sleep(_LOOK_SECONDS)
            seconds = min(seconds - _LOOK_SECONDS, (when - self.now()).total_seconds())
        await asyncio.sleep(max(0.0, seconds))


MAX_ASKED_SECONDS = 60.0
"""The longest time that anything waits because another service asks it to: its clock, or its words, may be
wrong, and one try more tells."""


@dataclass(slots=True)
class Backoff:
    """The pauses of one retry loop."""

    first_seconds: float
    """The first pause, in seconds. Each further one is twice as long."""
    max_seconds: float
    """The longest pause, in seconds."""
    jitter: float = 1.0
    """The share of each pause that is random: with 1 (full jitter) a pause is anywhere between 0 and the
    doubled value, with 0 exactly that."""
    failures: int = 0
    """Failures since the last success."""

    def next(self) -> float:
        """Returns the pause after one more failure."""
        ceiling = min(self.max_seconds, self.first_seconds * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return ceiling * (1 - self.jitter * random.random())

    def reset(self) -> None:
        """Makes the next pause a short one again, after a success."""
        self.failures = 0


async def unless(stopping: asyncio.Event, work: Awaitable[ResultT]) -> ResultT | None:
    """The result of some work; None if the event is set first, which cancels the work."""
    working = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() and not stopping.is_set() else None
    finally:
        stopped.cancel()
        working.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)

"""Time, as a port: what the mesh reads the time from, so that a test can move it by hand."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits for it."""

    def now(self) -> datetime:
        """The time now, in UTC."""
        ...

    async def sleep_until(self, when: datetime) -> None:
        """Return at that time, at once if it has passed."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The time now, in UTC."""
        return datetime.now(UTC)

    async def sleep_until(self, when: datetime) -> None:
        """Return at that time, at once if it has passed."""
        await asyncio.sleep(max(0.0, (when - self.now()).total_seconds()))

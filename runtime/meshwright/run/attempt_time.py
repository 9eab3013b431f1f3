"""The time that an attempt has for its work, and what of it a call of a model may take."""

from __future__ import annotations

import asyncio
import time

_RESERVE = 0.2  # of the attempt's time, to let the run wait once a call has had its own
_MAX_RESERVE_SECONDS = 1.0
_ENOUGH = 0.1  # of the attempt's time: a provider that had less for its answer may not be away


class AttemptTime:
    """The active time of an attempt. It stands still while the run waits, also for a provider in a call."""

    def __init__(self, timeout: float, used_before: float) -> None:
        self._timeout = timeout
        self._used_before = used_before
        self._begun = self._counted_to = time.perf_counter()
        self._still = 0.0
        self._limit: asyncio.Timeout | None = None

    @property
    def used(self) -> float:
        """The seconds of it that are used up, those before the run waited included."""
        return self._used_before + time.perf_counter() - self._begun - self._still

    @property
    def call_seconds(self) -> float:
        """What a call may take: it ends a little before the attempt does, so that the run can wait instead.

        Where little is left, since the run itself was slow, the attempt ends the call.
        """
        left = self._timeout - self.used - min(_MAX_RESERVE_SECONDS, _RESERVE * self._timeout)
        return round(left, 2) if left > _ENOUGH * self._timeout else self._timeout

    def limit(self) -> asyncio.Timeout:
        """A block that ends with the attempt's time."""
        self._limit = asyncio.timeout(max(0.0, self._timeout - self.used))
        return self._limit

    def stand_still(self, since: float) -> None:
        """Give back the time since then, by `perf_counter`; what calls waited together counts once."""
        now = time.perf_counter()
        seconds = now - max(since, self._counted_to)
        self._counted_to = now
        self._still += seconds
        limit = self._limit
        if limit is not None and not limit.expired() and (when := limit.when()) is not None:
            limit.reschedule(when + seconds)

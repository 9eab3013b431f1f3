"""When a run whose provider is away, or refuses its key, tries again: after pauses that grow to minutes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from meshwright.core.errors import ModelError
from meshwright.models.errors import ModelTimeout, is_refusal

_MAX_DOUBLINGS = 30
_MAX_SLOW_PAUSES = 5
"""In a row, for a model that does not answer in time: it may just be slow, and its answers cost."""


@dataclass(frozen=True, slots=True)
class Parking:
    """Pauses between two tries of a run: the first, and the longest, in seconds.

    A pause is a random half to whole of what it may be, so that runs which were parked together come back one
    after another.
    """

    first_seconds: float = 5.0
    max_seconds: float = 120.0
    draw: Callable[[], float] = random.random

    def due_at(self, error: ModelError, now: datetime, pauses: int, deadline: datetime) -> datetime | None:
        """When a run that paused so often in a row tries again, never before its provider wants it to.

        None where that is after the deadline, or another try would change nothing.
        """
        is_slow = isinstance(error, ModelTimeout) and not error.is_silent and pauses >= _MAX_SLOW_PAUSES
        if is_slow or not (error.retryable or is_refusal(error)):
            return None
        longest = min(self.max_seconds, self.first_seconds * 2 ** min(pauses, _MAX_DOUBLINGS))
        pause = longest * (1 + self.draw()) / 2 + (error.retry_after_seconds or 0.0)
        if pause >= (deadline - now).total_seconds():
            return None
        return now + timedelta(seconds=pause)

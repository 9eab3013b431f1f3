"""When a run tries again that waits for its provider or for money: after pauses that grow to minutes.

A part of each pause is random, so that runs which were parked together come back one after another.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from meshwright.core.clock import Backoff
from meshwright.core.errors import ModelError
from meshwright.models.errors import BudgetExceeded, ModelTimeout, is_refusal

_MAX_SLOW_PAUSES = 5
"""In a row, for a model that does not answer in time: it may just be slow, and its answers cost."""
_SECONDS_A_PRIORITY = 0.5  # that tasks of the next lower priority come later when a budget renews
_MAX_PRIORITY = 10


@dataclass(frozen=True, slots=True)
class Parking:
    """Pauses between two tries of a run whose provider is away: the first, and the longest, in seconds."""

    first_seconds: float = 5.0
    max_seconds: float = 120.0
    jitter: float = 0.5

    def due_at(self, error: ModelError, now: datetime, pauses: int, deadline: datetime) -> datetime | None:
        """When a run that paused so often in a row tries again, never before its provider wants it to.

        None where that is after the deadline, or another try would change nothing.
        """
        is_slow = isinstance(error, ModelTimeout) and not error.is_silent and pauses >= _MAX_SLOW_PAUSES
        if is_slow or not (error.retryable or is_refusal(error)):
            return None
        pause = Backoff(self.first_seconds, self.max_seconds, self.jitter, pauses).next()
        pause += error.retry_after_seconds or 0.0
        return None if pause >= (deadline - now).total_seconds() else now + timedelta(seconds=pause)


def tries_again_at(error: BudgetExceeded, now: datetime, pauses: int, priority: int) -> datetime | None:
    """When a run that paused so often in a row for money tries again; None where its budget says to fail.

    Runs that wait for the same budget to renew come back one after another, the most urgent first. One that
    is raised before wakes them.
    """
    if error.is_busy:  # calls under way hold the money
        seconds = Backoff(5.0, 120.0, jitter=0.5, failures=pauses).next()
    elif error.on_empty not in ("wait", "ask"):
        return None
    else:  # the limit may have been raised before the run has parked
        seconds = Backoff(15.0, 3600.0, jitter=0.25, failures=pauses).next()
        renews = error.retry_after_seconds
        if renews is not None and seconds >= renews:
            seconds = renews + (_MAX_PRIORITY - priority + random.random()) * _SECONDS_A_PRIORITY
    return now + timedelta(seconds=seconds)

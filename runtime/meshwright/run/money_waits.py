"""When a run whose budget is empty tries again: once it renews, or as soon as somebody raises it."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from meshwright.models.errors import BudgetExceeded

_BUSY_SECONDS, _MAX_BUSY_SECONDS = 5.0, 120.0  # between tries for money that calls under way hold
_CHECK_SECONDS, _MAX_CHECK_SECONDS = 15.0, 3600.0  # a limit may have been raised before the run has parked
_SECONDS_A_PRIORITY = 0.5  # that tasks of the next lower priority come later when a budget renews
_MAX_PRIORITY = 10
_MAX_DOUBLINGS = 20


def tries_again_at(error: BudgetExceeded, now: datetime, pauses: int, priority: int) -> datetime | None:
    """When a run that paused so often in a row tries again; None where its budget says to fail.

    Runs that wait for the same budget to renew come back one after another, the most urgent first. One that
    is raised before wakes them.
    """
    if not error.is_busy and error.on_empty not in ("wait", "ask"):
        return None
    doubled = 2.0 ** min(pauses, _MAX_DOUBLINGS)
    if error.is_busy:
        seconds = min(_MAX_BUSY_SECONDS, _BUSY_SECONDS * doubled) * random.uniform(0.5, 1)
    else:
        seconds = min(_MAX_CHECK_SECONDS, _CHECK_SECONDS * doubled) * random.uniform(0.75, 1)
        renews = error.retry_after_seconds
        if renews is not None and seconds >= renews:
            seconds = renews + (_MAX_PRIORITY - priority + random.random()) * _SECONDS_A_PRIORITY
    return now + timedelta(seconds=seconds)

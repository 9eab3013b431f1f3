"""When a run whose budget is empty tries again: once it renews, or as soon as somebody raises it."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from meshwright.models.port import BudgetExceeded

_BUSY_SECONDS, _MAX_BUSY_SECONDS = 5.0, 120.0  # between tries for money that calls under way hold
_CHECK = timedelta(hours=1)  # a limit in mesh.toml may have been raised
_SECONDS_A_PRIORITY = 0.5  # that tasks of the next lower priority come later when a budget renews
_MAX_PRIORITY = 10


def tries_again_at(error: BudgetExceeded, now: datetime, pauses: int, priority: int) -> datetime | None:
    """When a run that paused so often in a row tries again; None where its budget says to fail.

    Runs that wait for the same budget to renew come back one after another, the most urgent first. One that
    is raised before wakes them.
    """
    if error.is_busy:
        longest = min(_MAX_BUSY_SECONDS, _BUSY_SECONDS * 2 ** min(pauses, 10))
        return now + timedelta(seconds=longest * random.uniform(0.5, 1))
    if error.on_empty not in ("wait", "ask"):
        return None
    check = now + _CHECK
    if error.retry_after_seconds is None:
        return check
    rank = _MAX_PRIORITY - priority + random.random()
    return min(check, now + timedelta(seconds=error.retry_after_seconds + rank * _SECONDS_A_PRIORITY))

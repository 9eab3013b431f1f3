"""Tasks whose process ended twice in a row while they ran: they start again one at a time, after a pause.

One of them may have ended the process and the others ran beside it, so each is started alone: if the process
ends once more, that counts against this one. The next starts once it has finished a step, waits or has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from meshwright.kernel.envelope import ActorRef
from meshwright.work.slots import Offer

logger = logging.getLogger("meshwright.work")

SUSPECT_CLAIMS = 2  # in a row that ended with their process
PAUSE_SECONDS = 5.0  # of the process without a suspect: others that end it show by then


class Suspects:
    """The suspects that this worker is to start."""

    def __init__(self, start: Callable[[Offer], None]) -> None:
        self._start = start
        self._waiting: dict[tuple[ActorRef, str], Offer] = {}
        self._alone: Offer | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, offer: Offer) -> None:
        """Start a task when its turn comes; an offer of the same task replaces the one before."""
        if offer == self._alone:
            return
        if offer.key not in self._waiting:
            logger.warning(
                "Task %s of %s ran each of the last %d times that its process ended. It starts again alone, "
                "in %g s or later; if its process ends once more, it fails as BrokeOff. "
                "To end it now: mesh cancel %s",
                offer.task_id,
                offer.ref.type,
                offer.stalled_claims,
                PAUSE_SECONDS,
                offer.task_id,
            )
        self._waiting[offer.key] = offer
        if self._alone is None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._next)

    def passed(self, key: tuple[ActorRef, str]) -> None:
        """Start the next one if this was alone: it has finished a step, waits or has ended."""
        if self._alone is not None and key == self._alone.key:
            self._alone = None
            self._next()

    def withdraw(self, key: tuple[ActorRef, str]) -> None:
        """Take a task back that need not start."""
        self._waiting.pop(key, None)
        self.passed(key)

    def start_now(self, key: tuple[ActorRef, str]) -> None:
        """Start a task out of turn: it was cancelled, and its claim ends it."""
        if (offer := self._waiting.pop(key, None)) is not None:
            self._start(offer)

    def clear(self) -> None:
        """Start nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        self._alone = self._timer = None

    def _next(self) -> None:
        self._timer = None
        if self._waiting:
            self._alone = self._waiting.pop(next(iter(self._waiting)))
            self._start(self._alone)

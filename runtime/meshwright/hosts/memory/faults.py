"""Chance, by a seed: what may go wrong with messages and actors without breaking a promise of the port."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TypeVar

ChoiceT = TypeVar("ChoiceT")


class Faults:
    """Misfortunes that a host is to bring about; each is a probability from 0 to 1, per occasion.

    `duplicate`: a message is delivered a second time, later.
    `delay`: a message is held back, for up to `max_delay_passes` passes of the event loop.
    `reorder`: a message overtakes those of other pairs. What comes from one sender to one receiver keeps
    its order; a call, and a message that names no sender, is a pair of its own.
    `lose`: what an event is to a subscriber is lost on its way, as by a broker that dies. Once all that it
    has is delivered, the host gives the obliged actors a `redrive` turn. Plain subscribers never hear of it.
    `restart`: after a turn, the worker is as after a crash: the turn's signals are lost, every actor is
    read anew from its bytes, and the obliged ones get `recover` under a new incarnation. Messages, calls,
    listeners and work under way go on. It happens at most `max_restarts` times, so that recovering comes to
    an end.

    The same seed draws the same chances as long as everything happens in the same order.
    """

    def __init__(
        self,
        seed: int | str = 0,
        *,
        duplicate: float = 0.0,
        delay: float = 0.0,
        max_delay_passes: int = 20,
        reorder: float = 0.0,
        lose: float = 0.0,
        restart: float = 0.0,
        max_restarts: int = 20,
    ) -> None:
        self._chance = random.Random(seed)
        self._duplicate = duplicate
        self._delay = delay
        self._max_delay_passes = max_delay_passes
        self._reorder = reorder
        self._lose = lose
        self._restart = restart
        self._restarts_left = max_restarts

    def duplicates(self) -> bool:
        """Whether to deliver this message twice."""
        return self._strikes(self._duplicate)

    @property
    def may_lose(self) -> bool:
        """Whether anything may be lost."""
        return self._lose > 0

    def loses(self) -> bool:
        """Whether to lose what an event is to this subscriber."""
        return self._strikes(self._lose)

    def delay_passes(self) -> int:
        """For how many passes of the event loop to hold this message back."""
        return self._chance.randint(1, self._max_delay_passes) if self._strikes(self._delay) else 0

    def next_of(self, waiting: Iterator[ChoiceT]) -> ChoiceT | None:
        """Which of those that may come next does: the first, or any. None if there is none."""
        if not self._strikes(self._reorder):
            return next(waiting, None)
        candidates = list(waiting)
        return self._chance.choice(candidates) if candidates else None

    def restarts(self) -> bool:
        """Whether the worker restarts after this turn."""
        if not self._restarts_left or not self._strikes(self._restart):
            return False
        self._restarts_left -= 1
        return True

    def _strikes(self, probability: float) -> bool:
        return probability > 0 and self._chance.random() < probability

"""Chance, by a seed: what may go wrong with messages and actors without breaking a promise of the runtime."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from meshwright.kernel.store import Delivery

ChoiceT = TypeVar("ChoiceT")


class Faults:
    """Misfortunes that a store in memory brings about; each is a probability from 0 to 1, per occasion.

    `duplicate`: a message is delivered a second time, later.
    `delay`: a message is held back, for up to `max_delay_passes` passes of the event loop.
    `reorder`: a message overtakes those of other pairs. Messages from one sender to one receiver keep their
    order; a message that names no sender is a pair of its own.
    `conflict`: a commit fails as if another worker's had come first.
    `lose`: what an event is to a subscriber is lost on its way, as by a broker that dies. Once all that it
    has is delivered, actors with pending work get a `redrive` turn. Plain subscribers do not notice.
    `restart`: after a turn, the worker is as after a crash: the turn's signals are lost, every actor is
    loaded again, and those with pending work get `recover` under a new incarnation. Messages, calls,
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
        conflict: float = 0.0,
        lose: float = 0.0,
        restart: float = 0.0,
        max_restarts: int = 20,
    ) -> None:
        self._chance = random.Random(seed)
        self._duplicate = duplicate
        self._delay = delay
        self._max_delay_passes = max_delay_passes
        self._reorder = reorder
        self._conflict = conflict
        self._lose = lose
        self._restart = restart
        self._restarts_left = max_restarts

    @property
    def may_lose(self) -> bool:
        """Whether anything may be lost."""
        return self._lose > 0

    @property
    def disturbs_mail(self) -> bool:
        """Whether messages may arrive twice, late, or in another order."""
        return max(self._duplicate, self._delay, self._reorder) > 0

    def duplicates(self) -> bool:
        """Whether to deliver this message twice."""
        return self._strikes(self._duplicate)

    def loses(self) -> bool:
        """Whether to lose what an event is to this subscriber."""
        return self._strikes(self._lose)

    def conflicts(self) -> bool:
        """Whether this commit comes too late."""
        return self._strikes(self._conflict)

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


@dataclass(slots=True, eq=False)
class _Held:
    delivery: Delivery
    until_pass: int


class DisturbedMail:
    """The messages on their way to one actor: held back, doubled and reordered as faults will have it."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._held: list[_Held] = []
        self._passes = 0

    def __len__(self) -> int:
        return len(self._held)

    def put(self, delivery: Delivery) -> None:
        """Add a message, and perhaps a copy of it."""
        for _ in range(2 if self._faults.duplicates() else 1):
            self._held.append(_Held(delivery, self._passes + self._faults.delay_passes()))

    def take(self) -> Delivery | None:
        """The next message, or None in a pass in which every one is held back."""
        self._passes += 1
        held = self._faults.next_of(self._ready())
        if held is None:
            return None
        self._held.remove(held)
        return held.delivery

    def _ready(self) -> Iterator[_Held]:
        """Those that may come next: of each pair the oldest alone, so that none overtakes its own kind."""
        passed: set[str] = set()
        for held in self._held:
            message = held.delivery.message
            pair = message.sender or message.id
            if pair not in passed and held.until_pass < self._passes:
                yield held
            passed.add(pair)

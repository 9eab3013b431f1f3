"""Mailboxes: what waits for an actor's turn, and in which order it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from meshwright.envelope import Message
from meshwright.hosts.memory.faults import Faults


@dataclass(slots=True, eq=False)
class Letter:
    """A message on its way to its turn.

    `n` is its number in the store, of those that are durable; `reply` waits for what a call returns;
    `alarm` is the time that a `wake` was set for.
    """

    message: Message
    n: int | None = None
    reply: asyncio.Future[Any] | None = None
    alarm: datetime | None = None
    held_until_pass: int = 0

    @property
    def may_repeat(self) -> bool:
        """Whether the same message may come again: all that was sent, but no call, alarm or recovery."""
        return self.n is not None

    @property
    def pair(self) -> str:
        """What has to stay in order: the messages of one sender. Whatever names none stands alone."""
        return self.message.sender or self.message.id


class Mailbox:
    """The letters that wait for one actor, oldest first."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._letters: list[Letter] = []
        self._passes = 0

    def __len__(self) -> int:
        return len(self._letters)

    def put(self, letter: Letter) -> None:
        """Add a letter; faults may hold it back, or add a copy of one that may repeat."""
        self._hold(letter)
        if letter.may_repeat and self._faults.duplicates():
            self._hold(replace(letter))

    def take(self) -> Letter | None:
        """The next letter, or None in a pass in which every one is held back."""
        self._passes += 1
        letter = self._faults.next_of(self._ready())
        if letter is not None:
            self._letters.remove(letter)
        return letter

    def _hold(self, letter: Letter) -> None:
        letter.held_until_pass = self._passes + self._faults.delay_passes()
        self._letters.append(letter)

    def _ready(self) -> Iterator[Letter]:
        """Those that may come next: of each pair the oldest alone, so that none overtakes its own kind."""
        passed: set[str] = set()
        for letter in self._letters:
            if letter.pair not in passed and letter.held_until_pass < self._passes:
                yield letter
            passed.add(letter.pair)

"""Pauses between tries: each twice as long as the one before, with jitter, up to a longest."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """The pauses of one retry loop, in seconds.

    `jitter` is the share of each pause that is random: with 1 (full jitter) a pause is anywhere between 0 and
    the doubled value, with 0 exactly that.
    """

    first_seconds: float
    max_seconds: float
    jitter: float = 1.0
    failures: int = 0

    def next(self) -> float:
        """Returns the pause after one more failure."""
        ceiling = min(self.max_seconds, self.first_seconds * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return ceiling * (1 - self.jitter * random.random())

    def reset(self) -> None:
        """Makes the next pause a short one again, after a success."""
        self.failures = 0

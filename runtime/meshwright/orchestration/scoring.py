"""How well an agent suits a task, as a product of factors that a person can follow.

    score = weight × health × success × streak × preferred

- weight     what the agent claims for the capability, 0 to 1
- health     1 while everything that the agent depends on answers its probe, else 0
- success    of the last 20 tasks of that agent and capability, the i-th newest counting 0.95^i
- streak     1.1 if the last three all succeeded (there must have been three)
- preferred  1.05 if the agent declares the capability as preferred

No history counts as a success of 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import accumulate

from meshwright.capability import Capability
from meshwright.messages import ScoreCard

MAX_OUTCOMES = 20
_STREAK_LENGTH = 3
_STREAK_FACTOR = 1.1
_PREFERRED_FACTOR = 1.05
_DECAYS = tuple(0.95**age for age in range(MAX_OUTCOMES))
_TOTALS = (0.0, *accumulate(_DECAYS))
_SCORE_DIGITS = 6  # so that 1.1 x 1.05 is written 1.155


class History:
    """The last outcomes of one agent and capability; `success` and `streak` are kept up to date."""

    __slots__ = ("_newest_first", "streak", "success")

    def __init__(self, oldest_first: Iterable[bool] = ()) -> None:
        self._newest_first: deque[bool] = deque(maxlen=MAX_OUTCOMES)
        self.success = 1.0
        self.streak = 1.0
        for succeeded in oldest_first:
            self.add(succeeded)

    def add(self, succeeded: bool) -> bool:
        """Count one more outcome, forgetting the oldest beyond 20; returns whether the score changes."""
        before = self.success, self.streak
        newest = self._newest_first
        newest.appendleft(succeeded)
        gained = sum(decay for decay, success in zip(_DECAYS, newest, strict=False) if success)
        self.success = gained / _TOTALS[len(newest)]
        on_streak = len(newest) >= _STREAK_LENGTH and all(newest[age] for age in range(_STREAK_LENGTH))
        self.streak = _STREAK_FACTOR if on_streak else 1.0
        return (self.success, self.streak) != before


def score_card(agent_id: str, capability: Capability, *, healthy: bool, history: History) -> ScoreCard:
    """Score one agent for one of its capabilities."""
    health = 1.0 if healthy else 0.0
    preferred = _PREFERRED_FACTOR if capability.preferred else 1.0
    score = capability.weight * health * history.success * history.streak * preferred
    return ScoreCard(
        agent_id=agent_id,
        capability=capability.name,
        score=round(score, _SCORE_DIGITS),
        weight=capability.weight,
        health=health,
        success=round(history.success, _SCORE_DIGITS),
        streak=history.streak,
        preferred=preferred,
    )

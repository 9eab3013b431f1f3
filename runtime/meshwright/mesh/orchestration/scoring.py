"""How well an agent suits a task, as a product of factors that a person can follow.

    score = weight × health × success × streak × preferred

- weight     what the agent claims for the capability, 0 to 1
- health     1 while everything that the agent depends on answers its probe, else 0
- success    of the last 20 tasks of that agent and capability, the i-th newest counting 0.95^i
- streak     1.1 if the last three all succeeded (there must have been three)
- preferred  1.05 if the agent declares the capability as preferred

No history counts as a success of 1. `counts` says which attempts do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

from meshwright.core.capability import Capability
from meshwright.core.encoding import Struct
from meshwright.core.events import Event
from meshwright.core.messages import Fault, Outcome, ScoreCard
from meshwright.engine.events.tasks import read_outcome
from meshwright.engine.sql.database import Session

FaultClass = Literal["agent", "caller", "provider", "mesh"]
_Retry = Literal["another agent", "any agent", "none"]


class _Rule(NamedTuple):
    """`any agent` includes the failed agent: its new attempt starts with an empty journal."""

    fault_class: FaultClass
    retry: _Retry
    errors: tuple[str, ...] = ()
    starts_over: bool = False


_AGENTS = _Rule("agent", "another agent")
"""The rule of all errors that the table does not name."""
_TABLE = (
    _Rule("caller", "none", ("BudgetExceeded", "PriceUnknown", "TaskLimitReached")),
    _Rule("caller", "none", ("Cancelled", "DeadlineExceeded", "RestartDenied", "WaitExpired")),
    _Rule("caller", "another agent", ("ContentRefused", "ContextTooLong", "InvalidInput", "TooLarge")),
    _Rule("caller", "another agent", ("TaskTimeout",)),
    _Rule("caller", "another agent", ("ShapeMismatch",), starts_over=True),
    _Rule("provider", "another agent", ("AllProvidersDown", "ModelTimeout", "ModelUnavailable")),
    _Rule("provider", "another agent", ("RateLimited", "Unauthorized", "ModelRefused", "Unsupported")),
    _Rule("provider", "another agent", ("ModelError",)),
    _Rule("mesh", "another agent", ("DelegationFailed", "MemoryUnavailable")),
    _Rule("mesh", "none", ("BrokeOff",)),
    _Rule("mesh", "another agent", ("CacheUnavailable", "Conflict")),
    _Rule("mesh", "another agent", ("NoAgentAvailable", "NotFound", "Overloaded", "MailboxFull")),
    _Rule("mesh", "another agent", ("Draining", "HostError", "ServiceFailed", "StoreTooOld")),
    _Rule(
        "mesh",
        "another agent",
        ("StoreFailed", "StoreLocked", "StoreTooNew", "StoreTooOld", "StoreUnavailable"),
    ),
    _Rule("mesh", "any agent", ("ReplayMismatch",)),
)
_RULES = {error: rule for rule in _TABLE for error in rule.errors}


class AttemptEnd(Struct, kw_only=True):
    """The fields of an outcome that say something about its agent."""

    agent_id: str
    capability: str = ""
    status: str
    success: bool
    error: Fault | None = None


def classify_fault(outcome: Outcome | AttemptEnd) -> FaultClass:
    """Returns who is at fault for the failed end of an attempt."""
    return _fault_rule(outcome).fault_class


def counts(outcome: Outcome | AttemptEnd) -> bool:
    """Whether the end of an attempt says something about its agent."""
    return outcome.success or (outcome.status != "cancelled" and classify_fault(outcome) == "agent")


def may_retry(outcome: Outcome) -> bool:
    """Whether another attempt may succeed where this one failed."""
    return _fault_rule(outcome).retry != "none"


def must_start_over(outcome: Outcome) -> bool:
    """Whether what its journal has would fail again: its agent was at fault, or could not follow it."""
    rule = _fault_rule(outcome)
    return rule.fault_class == "agent" or rule.retry == "any agent" or rule.starts_over


def rules_out(error: Fault | None) -> bool:
    """Whether the agent whose attempt ended so is not asked again."""
    return error is None or _RULES.get(error.type, _AGENTS).retry != "any agent"


def _fault_rule(outcome: Outcome | AttemptEnd) -> _Rule:
    if outcome.error is None:
        return _AGENTS
    return _RULES.get(outcome.error.type, _AGENTS)


MAX_OUTCOMES = 20  # kept of each agent and capability
_STREAK_LENGTH = 3
_STREAK_FACTOR = 1.1
_PREFERRED_FACTOR = 1.05
_DECAYS = tuple(0.95**age for age in range(MAX_OUTCOMES))
_TOTALS = (0.0, *accumulate(_DECAYS))
_SCORE_DIGITS = 6  # so that 1.1 x 1.05 is written 1.155


class OutcomeHistory:
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
        if all(newest):
            self.success = 1.0
        else:
            gained = sum(decay for decay, success in zip(_DECAYS, newest, strict=False) if success)
            self.success = gained / _TOTALS[len(newest)]
        on_streak = len(newest) >= _STREAK_LENGTH and all(newest[age] for age in range(_STREAK_LENGTH))
        self.streak = _STREAK_FACTOR if on_streak else 1.0
        return (self.success, self.streak) != before


def score_card(agent_id: str, capability: Capability, *, healthy: bool, history: OutcomeHistory) -> ScoreCard:
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


_INTO = "agent_outcomes (agent_id, capability, last_seq, recent)"
_REPLACE = (
    "ON CONFLICT (agent_id, capability) DO UPDATE SET last_seq = excluded.last_seq, recent = excluded.recent"
)
_SELECT_ONE = "SELECT recent FROM agent_outcomes WHERE agent_id = ? AND capability = ?"
_SELECT_ALL = "SELECT agent_id, capability, recent FROM agent_outcomes"


class OutcomeProjection:
    """The table `agent_outcomes`."""

    name = "outcomes"
    version = 1
    event_types: Collection[str] = ("attempt.ended",)

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Count the ends of attempts that say something about their agents."""
        recent: dict[tuple[str, str], tuple[int, str]] = {}
        for event in events:
            outcome = read_outcome(event)
            if outcome is None or not counts(outcome) or not outcome.capability:
                continue
            key = outcome.agent_id, outcome.capability
            before = recent[key][1] if key in recent else _stored(session, key)
            recent[key] = event.seq or 0, (before + ("1" if outcome.success else "0"))[-MAX_OUTCOMES:]
        session.insert(_INTO, [(*key, *value) for key, value in recent.items()], then=_REPLACE)

    def clear(self, session: Session, oldest: int) -> None:
        """Forget what events of the log have made."""
        session.execute("DELETE FROM agent_outcomes WHERE last_seq >= ?", (oldest,))


def recent_outcomes(session: Session, last: int = MAX_OUTCOMES) -> list[tuple[str, str, bool]]:
    """(agent_id, capability, success) of the last attempts, at most 20 of each pair, oldest first."""
    rows = session.execute(_SELECT_ALL).fetchall()
    return [(agent_id, name, mark == "1") for agent_id, name, recent in rows for mark in recent[-last:]]


def _stored(session: Session, key: tuple[str, str]) -> str:
    row = session.execute(_SELECT_ONE, key).fetchone()
    return row[0] if row else ""

"""Whose fault it is that an attempt failed, and who may try again: one table, by the error's name.

Only the agent's own faults lower its score: an error of its code, an answer that is empty, cut off or of the
wrong shape, a tool that failed. Where a delegated task fails, that counts against the agent that was asked.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from meshwright.core.messages import Fault, Outcome

FaultClass = Literal["agent", "caller", "provider", "mesh"]
_Retry = Literal["another agent", "any agent", "none"]


class _Rule(NamedTuple):
    """`any agent` includes the one that failed: its new attempt starts with an empty journal."""

    fault_class: FaultClass
    retry: _Retry
    errors: tuple[str, ...] = ()


_AGENTS = _Rule("agent", "another agent")
"""What the table does not name."""
_TABLE = (
    _Rule("caller", "none", ("BudgetExceeded", "PriceUnknown", "TaskLimitReached")),
    _Rule("caller", "none", ("Cancelled", "DeadlineExceeded", "RestartDenied", "WaitExpired")),
    _Rule("caller", "another agent", ("ContentRefused", "ContextTooLong", "InvalidInput", "TooLarge")),
    _Rule("caller", "another agent", ("TaskTimeout",)),
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
        ("StoreFailed", "StoreLocked", "StoreTooNew", "StoreUnavailable"),
    ),
    _Rule("mesh", "any agent", ("ReplayMismatch",)),
)
_RULES = {error: rule for rule in _TABLE for error in rule.errors}


def class_of(outcome: Outcome) -> FaultClass:
    """Whose fault the failed end of an attempt is."""
    return _rule_of(outcome).fault_class


def counts(outcome: Outcome) -> bool:
    """Whether the end of an attempt says something about its agent."""
    return outcome.success or (outcome.status != "cancelled" and class_of(outcome) == "agent")


def may_retry(outcome: Outcome) -> bool:
    """Whether another attempt may succeed where this one failed."""
    return _rule_of(outcome).retry != "none"


def rules_out(error: Fault | None) -> bool:
    """Whether the agent whose attempt ended so is not asked again."""
    return error is None or _RULES.get(error.type, _AGENTS).retry != "any agent"


def _rule_of(outcome: Outcome) -> _Rule:
    if outcome.error is None:
        return _AGENTS
    return _RULES.get(outcome.error.type, _AGENTS)

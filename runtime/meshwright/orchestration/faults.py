"""Whose fault it is that an attempt failed: only the agent's own count against it.

An attempt counts as the agent's where its fault is in no line of the table: an error of its code, an answer
that is empty, cut off or of the wrong shape, a tool that failed. Where a delegated task fails, that counts
against the agent that was asked.
"""

from __future__ import annotations

from typing import Literal

from meshwright.messages import Fault, Outcome

Side = Literal["agent", "caller", "provider", "mesh"]

_CODES: dict[Side, tuple[str, ...]] = {
    "caller": (
        "BudgetExceeded",
        "Cancelled",
        "ContentRefused",
        "ContextTooLong",
        "DeadlineExceeded",
        "InvalidInput",
        "PriceUnknown",
        "Timeout",
    ),
    "provider": (
        "AllProvidersDown",
        "ModelError",
        "ModelRefused",
        "ModelTimeout",
        "ModelUnavailable",
        "RateLimited",
        "Unauthorized",
        "Unsupported",
    ),
    "mesh": (
        "BrokeOff",
        "DelegationFailed",
        "Draining",
        "HostError",
        "MailboxFull",
        "MemoryUnavailable",
        "NoAgentAvailable",
        "NotFound",
        "Overloaded",
        "Overloaded",
        "ReplayMismatch",
        "ServiceFailed",
        "StoreFailed",
        "StoreLocked",
        "StoreTooNew",
        "StoreUnavailable",
    ),
}
_SIDES: dict[str, Side] = {code: side for side, codes in _CODES.items() for code in codes}
_ENOUGH_SECONDS = 120.0  # for an attempt: the default timeout

SAME_AGENT_MAY_RETRY = frozenset({"ReplayMismatch"})
"""Faults of the attempt rather than of the agent."""
NOBODY_MAY_RETRY = frozenset({"BudgetExceeded", "PriceUnknown"})
"""Faults that another agent would meet as well."""


def _side_of(fault: Fault, seconds: float) -> Side:
    """Whose fault it is; of an attempt that timed out the agent's, if it had the time that is the default."""
    if fault.type == "Timeout" and seconds >= _ENOUGH_SECONDS:
        return "agent"
    return _SIDES.get(fault.type, "agent")


def counts(outcome: Outcome) -> bool:
    """Whether the end of an attempt says something about its agent."""
    if outcome.success or outcome.error is None:
        return outcome.status != "cancelled"
    return _side_of(outcome.error, outcome.duration_ms / 1000) == "agent" and outcome.status != "cancelled"

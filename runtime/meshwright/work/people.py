"""The events of approvals: who was asked for one, and who gave or denied it, when and why."""

from __future__ import annotations

from typing import Any

from meshwright.work.protocol import Wait

APPROVAL = "approval"
"""The `kind` of the subject of a wait for an approval."""
NEEDED, APPROVED_BY = "approvals_needed", "approved_by"
"""Fields of the subject: how many callers have to approve, if more than one, and who has."""
REQUESTER_MAY = "requester_may_approve"
"""The field of the subject that lets the requester of the task approve."""


def approval_requested(wait: Wait) -> tuple[str, dict[str, Any]] | None:
    """The event of a wait for an approval; None for any other wait."""
    if wait.subject.get("kind") != APPROVAL:
        return None
    named = {name: wait.subject.get(name) for name in ("tool", "arguments", "agent_id")}
    more = {"may_answer": wait.may_answer, "expires_at": wait.expires_at}
    return "approval.requested", {"key": wait.wait_id, **named, **more}


def counted(wait: Wait, value: Any, answered_by: str | None) -> bool:
    """Whether an approval was counted in the wait, which needs more; any other answer ends the wait."""
    approved_by = {*wait.subject.get(APPROVED_BY, ()), answered_by or ""}
    is_approval = isinstance(value, dict) and value.get("approve")
    if not is_approval or len(approved_by) >= wait.subject.get(NEEDED, 1):
        return False
    wait.subject[APPROVED_BY] = sorted(approved_by)
    return True


def approval_ended(wait: Wait, value: Any, answered_by: str | None) -> tuple[str, dict[str, Any]] | None:
    """The event of its end; `value` is the decision, or None where it has expired."""
    if wait.subject.get("kind") != APPROVAL:
        return None
    decision = value if isinstance(value, dict) else {}
    how = "expired" if value is None else "given" if decision.get("approve") else "denied"
    decided = {
        "tool": wait.subject.get("tool"),
        "decided_by": answered_by,
        "reason": decision.get("reason", ""),
    }
    return f"approval.{how}", {"key": wait.wait_id, **decided}

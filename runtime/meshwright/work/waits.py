"""What a run waits for: one record, which the API, the CLI and every edge show and answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from msgspec import field

from meshwright.encoding import Struct


class Wait(Struct):
    """One thing that a run waits for.

    `wait_id` names it in the answer. `kind` says where the answer comes from: a `person`, or a `task` that
    was delegated, whose outcome it is (`child_task_id`). `reason` is the question as a sentence; `subject`
    says what it is about: the `kind` of step, its `request`, and the `steps` that would be repeated.
    """

    wait_id: str
    kind: Literal["person", "task"] = "person"
    reason: str = ""
    subject: dict[str, Any] = field(default_factory=dict)
    child_task_id: str | None = None
    since: datetime | None = None

    @classmethod
    def of_stored(cls, key: str, known: Mapping[str, Any]) -> Wait:
        """Read the form that 0.1's first data folders hold."""
        subject = dict(known)
        reason, child = subject.pop("asked", ""), subject.pop("child_task_id", None)
        kind: Literal["person", "task"] = "task" if child else "person"
        return cls(wait_id=key, kind=kind, reason=reason, subject=subject, child_task_id=child)

    @property
    def event_fields(self) -> dict[str, Any]:
        """The payload of a `task.waiting` event."""
        asked = {"asked": self.reason} if self.reason else {}
        child = {"child_task_id": self.child_task_id} if self.child_task_id is not None else {}
        return {"key": self.wait_id, **asked, **self.subject, **child}

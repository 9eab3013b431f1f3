"""Yes and no of people: the form of the answer, and the events of approvals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from meshwright.core.encoding import Struct
from meshwright.core.errors import ToolFailed
from meshwright.core.redaction import Marks, redact_data
from meshwright.core.task_events import ApprovalEnded, ApprovalRequested, TaskWaiting
from meshwright.engine.work.protocol import APPROVED_BY, TOOL, StepKey, Wait, WaitKind

APPROVAL = "approval"
"""The `kind` of the subject of a wait for an approval."""
NEEDED = "approvals_needed"
"""Fields of the subject: how many callers have to approve, if more than one, and who has."""
HIDDEN = "hidden_parts"
"""The field of the subject that says how many characters and lines of it are hidden."""
REQUESTER_MAY = "requester_may_approve"
"""The field of the subject that lets the requester of the task approve."""
MAX_SHOWN_CHARS = 64_000
"""How long the arguments of a call may be, as JSON: an open question shows them whole, and is a part of its
thread's state."""
WAITED_FOR: dict[WaitKind, str] = {
    "person": "a person",
    "task": "another task",
    "timer": "a time",
    "event": "an event",
    "provider": "a provider of models",
    "money": "money",
    "program": "a program",
}
"""The kinds of waits in words."""


def asks_person(wait: Wait | TaskWaiting) -> bool:
    """Whether a person has to answer for a wait to end; for money that depends on the budget."""
    return wait.kind == "person" or asks_for_money(wait.subject)


def asks_for_money(subject: Any) -> bool:
    """Whether a wait for money has a person asked, by its subject."""
    return isinstance(subject, dict) and subject.get("on_empty") == "ask"


class Approval(BaseModel):
    """The answer to a question that is to be approved or denied."""

    model_config = ConfigDict(extra="forbid")

    approve: bool
    """Whether the call may be made."""
    reason: str = Field(default="", max_length=4_000)
    """The reason, which the model reads after a no: at most 4,000 characters."""


class Repetition(Approval):
    """Whether a step runs again that may have taken effect; if not, `result` is what it gave."""

    result: Any = None


class Decision(Struct):
    """An answer as it is recorded: who gave it, when, what it is bound to, and until when it may be used.

    `arguments` replace those of the call; None: as asked. `effect` is the hash of the effect that was shown,
    `error` why no person was asked.
    """

    approve: bool
    reason: str = ""
    arguments: dict[str, Any] | None = None
    decided_by: str = ""
    decided_at: datetime | None = None
    binds: str = ""
    expires_at: datetime | None = None
    effect: str = ""
    error: str = ""

    def covers(self, binds: str, now: datetime) -> bool:
        """Whether it is a yes to the call with this hash, and may still be used."""
        is_in_time = self.expires_at is None or now <= self.expires_at
        return self.approve and self.binds == binds and is_in_time

    def check(self, tool: str, binds: str, now: datetime) -> None:
        """Raise ToolFailed if the call may not run, with the message for its model."""
        if self.error:
            raise ToolFailed(f"{tool} was not run: {self.error}")
        if not self.approve:
            who = f"{self.decided_by} denied it" if self.decided_by else "it was not approved in time"
            raise ToolFailed(f"{tool} was not run: {who}{f': {self.reason}' if self.reason else ''}")
        if self.binds != binds:
            raise ToolFailed(f"{tool} was not run: {self.decided_by} approved it with other arguments")
        if self.expires_at is not None and now > self.expires_at:
            raise ToolFailed(f"{tool} was not run: its approval has expired", remedy="Call it again")


QUESTIONS = "0"
"""The path of questions of the journal itself, before the first step."""
RESTART, REPEAT = "restart", "repeat"
"""The steps that ask whether a run starts over, and whether a step runs again that may have taken effect."""
CHECK = "check "
"""How the kinds of steps begin that check whether another has happened."""


def repeat_key(step: StepKey, times: int) -> StepKey:
    """The key of the question whether a step runs again that began so many times."""
    return StepKey(path=f"{QUESTIONS}.{step.path}.{times}", number=step.number, kind=REPEAT, hash="")


def check_key(step: StepKey, times: str) -> StepKey:
    """The key of the step that checks whether another has happened; `times` tells its runs apart."""
    kind = f"{CHECK}{step.kind.removeprefix('tool ')}"
    return StepKey(path=f"{QUESTIONS}.{step.path}.{times}", number=step.number, kind=kind, hash=step.hash)


def asked_about(step: StepKey) -> str:
    """The path of the step that a wait is about: its own, but for such a question."""
    if step.kind != REPEAT:
        return step.path
    return step.path.removeprefix(f"{QUESTIONS}.").rpartition(".")[0]


def is_doubt(wait_id: str) -> bool:
    """Whether a question is of the journal itself: whether something happened, or may happen again."""
    return wait_id.rpartition("/")[2].startswith(f"{QUESTIONS}.")


def marked(subject: Mapping[str, Any], names: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A subject with marks in place of secrets in the fields of some names, and those fields as they are.

    It says how much is hidden, with what it said before. The second is empty where nothing is.
    """
    marks = Marks(**subject.get(HIDDEN, {}))
    visible = {name: redact_data(subject[name], marks) for name in names if name in subject}
    whole = {name: subject[name] for name, field in visible.items() if field != subject[name]}
    return {**subject, **visible, **({HIDDEN: marks.counts} if marks.lines else {})}, whole


def sealed_text(seal: Callable[[str], str], fields: Mapping[str, Any], question: str | None = None) -> str:
    """Fields of a subject, and the question, as they are, encrypted: a part of `Wait.sealed`."""
    return seal(json.dumps({"question": question, "subject": fields}, ensure_ascii=False))


def hidden_words(subject: Mapping[str, Any]) -> str:
    """Says how much of a subject is hidden, and how to open it; no text where nothing is."""
    if not (counts := subject.get(HIDDEN)):
        return ""
    characters, lines = (_counted(counts[name], name) for name in ("characters", "lines"))
    return f"Hidden here: {characters} in {lines}. The page and `mesh inbox ID --reveal` show them."


def _counted(count: int, name: str) -> str:
    return f"{count:,} {name.removesuffix('s') if count == 1 else name}"


def is_decision(wait: Wait) -> bool:
    """Whether only an approver may give the answer, since it lets something happen."""
    return wait.subject.get("kind") == APPROVAL or wait.step.kind in (RESTART, REPEAT)


def read_decision(wait: Wait, value: Any) -> Literal["approved", "denied"] | None:
    """Reads whether a person approved or denied; None for an answer that does neither."""
    if wait.kind != "person" or not isinstance(value, dict) or not isinstance(value.get("approve"), bool):
        return None
    return "approved" if value["approve"] else "denied"


def approval_requested(wait: Wait) -> ApprovalRequested | None:
    """The event of a wait for an approval; None for any other wait."""
    if wait.subject.get("kind") != APPROVAL:
        return None
    fields = {name: wait.subject.get(name) for name in ("tool", "arguments", "agent_id")}
    return ApprovalRequested(
        key=wait.wait_id, may_answer=wait.may_answer, expires_at=wait.expires_at, **fields
    )


def counted(wait: Wait, value: Any, answered_by: str | None) -> bool:
    """Whether an approval was counted in the wait, which needs more; any other answer ends the wait.

    So does one with changed arguments: it is no approval of the call that the others are asked about.
    """
    approved_by = {*wait.subject.get(APPROVED_BY, ()), answered_by or ""}
    is_plain = isinstance(value, dict) and value.get("approve") and value.get("arguments") is None
    if not is_plain or len(approved_by) >= wait.subject.get(NEEDED, 1):
        return False
    wait.subject[APPROVED_BY] = sorted(approved_by)
    return True


def approval_ended(wait: Wait, value: Any, answered_by: str | None) -> tuple[ApprovalEnded, str] | None:
    """The event of its end, and its type; `value` is the decision, or None where it has expired."""
    if wait.subject.get("kind") != APPROVAL:
        return None
    decision = value if isinstance(value, dict) else {}
    how = "expired" if value is None else "given" if decision.get("approve") else "denied"
    arguments = decision.get("arguments")
    payload = ApprovalEnded(
        key=wait.wait_id,
        tool=wait.subject.get("tool"),
        decided_by=answered_by,
        reason=decision.get("reason", ""),
        arguments=None if arguments is None else redact_data(arguments),
    )
    return payload, f"approval.{how}"


def answer_result(key: StepKey, answer: Mapping[str, Any]) -> Any:
    """The result of a step that a person does not let run again, else the reason; a model gets words."""
    result, tool = answer.get("result"), key.kind.removeprefix(TOOL)
    if result is not None:
        return result
    is_tool = tool != key.kind
    words = f"{tool} was interrupted, may have taken effect, and is not run again." if is_tool else None
    return answer.get("reason") or words

"""The events of tasks, their attempts, waits and approvals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from msgspec import field

from meshwright.core import topics
from meshwright.core.display import (
    Document,
    dollars,
    duration,
    fault,
    finish,
    number,
    score,
    seconds,
    short,
    short_id,
)
from meshwright.core.messages import Fault, Usage
from meshwright.core.money import ZERO, Amount
from meshwright.core.payloads import Fact, Payload, declared

WaitKind = Literal["person", "task", "timer", "event", "provider", "money", "program"]


class TaskAccepted(Payload, type="task.accepted", topic=topics.TASK_PROGRESS, word="accepted"):
    capability: Fact[str]
    priority: Fact[int | None]
    thread_id: str
    requested_by: Fact[str]
    created_at: Fact[datetime | None]
    dispatched_to: Fact[str | None]
    score_card: Fact[Any]
    parent_task_id: Fact[str | None]
    after: str | None = None
    forked_from: Fact[Any] = None
    variants: tuple[Any, ...] = ()

    def event_line(self, event: Document) -> Sequence[object]:
        fork = self.forked_from if isinstance(self.forked_from, dict) else {}
        return (
            short_id(event["task_id"]),
            self.capability,
            self.priority not in (None, 5) and f"priority {self.priority}",
            self.thread_id not in ("", event["task_id"]) and f"thread {self.thread_id}",
            self.after and f"after task {short_id(self.after)}",
            fork and f"from step {fork.get('step', '?')} of {short_id(fork.get('task_id', '?'))}",
        )


class TaskDispatched(Payload, type="task.dispatched", word="dispatched"):
    task: dict[str, Any]
    attempt: int
    agent_id: str
    score_card: Fact[Any]
    others: tuple[Any, ...] = ()
    """at most 10 cards, of agents not chosen"""

    def event_line(self, event: Document) -> Sequence[object]:
        agent = self.agent_id or event["agent_id"]
        return agent, score(self.score_card), self.attempt > 1 and f"attempt {self.attempt}"


class WorkPayload(Payload, topic=topics.TASK_PROGRESS):
    """Base of the payloads of events of an attempt; its thread adds the attempt and the fence."""

    attempt: int | None = None
    fence: int | None = None


class TaskStarted(WorkPayload, type="task.started task.resumed"):
    owner: Fact[str | None]
    """run of the worker"""
    code: str | None
    """digest"""

    def event_line(self, event: Document) -> Sequence[object]:
        return f"attempt {self.attempt or '?'}", (self.fence or 1) > 1 and f"claim {self.fence}"


class TaskWaiting(
    WorkPayload,
    type="task.waiting",
    word="waiting",
    listed="attempt, fence, key (to answer by), kind (person, task, timer, event, provider, money or "
    "program), asked, subject, child_task_id, answer_schema, may_answer, digest (of the question), due_at, "
    "expires_at, once (not idempotent steps), running, repeated",
):
    key: Fact[str]
    kind: Fact[WaitKind]
    asked: str = ""
    child_task_id: Fact[str | None] = None
    due_at: Fact[datetime | None] = None
    expires_at: Fact[datetime | None] = None
    subject: dict[str, Any] = field(default_factory=dict)
    answer_schema: dict[str, Any] | None = None
    may_answer: Fact[tuple[str, ...]] = ()
    digest: str = ""
    once: int = 0
    running: bool = False
    repeated: bool = False
    on_empty: Fact[str] = ""
    since: datetime | None = None
    """Like on_empty in older events alone."""

    def event_line(self, event: Document) -> Sequence[object]:
        if self.child_task_id:
            return (f"for task {short_id(self.child_task_id)}, no slot held",)
        if self.kind == "person":
            return (f"for a person: {short(self.asked)}", "mesh inbox")
        if self.kind == "program":
            return (f"for a program: {short(self.asked)}",)
        if self.due_at:
            what = "next try" if self.kind in ("provider", "money") else "goes on"
            pause = duration(self.due_at - datetime.fromisoformat(event["time"]))  # readers have other zones
            return f"for {self.kind or '?'}, {what} {pause} later", short(self.asked)
        return f"for {self.key}", short(self.asked)


class WaitEnded(WorkPayload, type="wait.ended", word="waited"):
    key: Fact[str]
    kind: Fact[WaitKind]
    how: Fact[Literal["answered", "due", "expired", "withdrawn"]]
    """answered, due, expired, or withdrawn by the code that waited"""
    answered_by: Fact[str | None]
    decision: Fact[Literal["approved", "denied"] | None] = None
    """approved or denied, where that was the question"""

    def event_line(self, event: Document) -> Sequence[object]:
        return (
            f"{self.decision or self.how or '?'} ({self.kind or '?'})",
            self.answered_by and f"by {self.answered_by}",
        )


class QuestionReached(Payload, type="question.reached", word="reached"):
    """A question was shown to a person who may answer it: for the first time in the inbox, or in a chat."""

    key: Fact[str]
    """of the question"""
    by: Fact[str]
    """the caller, or the channel"""

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"the question is shown to {self.by or '?'}",)


class QuestionClaimed(Payload, type="question.claimed", word="claimed"):
    """A person says that they are looking at a question; of two who say so, it is the first one's."""

    key: Fact[str]
    """of the question"""
    by: Fact[str]
    """the caller"""
    until: Fact[datetime]
    """when the claim ends by itself"""

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.by or '?'} is looking at the question",)


class QuestionReleased(Payload, type="question.released", word="released"):
    """A person no longer looks at a question that they had claimed."""

    key: Fact[str]
    """of the question"""
    by: Fact[str]
    """the caller"""

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.by or '?'} is no longer looking at the question",)


class QuestionReminded(WorkPayload, type="question.reminded", topic=topics.TASK_PROGRESS, word="reminded"):
    """Nobody has answered a question for a while; with the second reminder it goes to others as well."""

    key: Fact[str]
    """of the question"""
    since: Fact[datetime]
    """when it was asked"""
    reminders: Fact[int]
    """how many there were, this one included"""
    may_answer: Fact[tuple[str, ...]] = ()
    """who may answer from now on"""
    escalated_to: Fact[tuple[str, ...]] = ()
    """those whom the question went to as well"""

    def event_line(self, event: Document) -> Sequence[object]:
        waited = duration(datetime.fromisoformat(event["time"]) - self.since)
        whom = ", ".join(map(short, self.escalated_to)).replace("*", "everybody who may answer")
        return f"no answer for {waited}", whom and f"asked of {whom} as well", "mesh inbox"


class ApprovalRequested(WorkPayload, type="approval.requested", word="approval"):
    key: Fact[str]
    tool: Fact[str | None]
    arguments: Any
    agent_id: str | None
    may_answer: Fact[tuple[str, ...]]
    expires_at: Fact[datetime | None]

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"asked for {self.tool}",)


class ApprovalEnded(
    WorkPayload,
    type="approval.given approval.denied approval.expired",
    word={"approval.given": "approved", "approval.denied": "denied", "approval.expired": "expired"},
):
    key: Fact[str]
    tool: Fact[str | None]
    decided_by: Fact[str | None]
    reason: str | None
    arguments: Any = None

    def event_line(self, event: Document) -> Sequence[object]:
        changed = self.arguments is not None and f"with {arguments_line(self.arguments) or 'no arguments'}"
        return self.tool, self.decided_by and f"by {self.decided_by}", changed, short(self.reason or "")


def arguments_line(value: Any) -> str:
    """The arguments of a tool call, as JSON text or an object: `path="README.md"  limit=3`."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:  # as the model wrote it, or cut short
            return short(value)
    if not isinstance(value, dict):
        return short(value or "")
    return short(" ".join(f"{name}={json.dumps(item, ensure_ascii=False)}" for name, item in value.items()))


class _OutcomePayload(Payload):
    """The fields of an outcome that viewers and lines need; the payload is the outcome."""

    task_id: str
    agent_id: str
    capability: Fact[str] = ""
    status: Fact[str] = ""
    success: Fact[bool] = False
    error: Fault | None = None
    duration_ms: Fact[float] = 0.0
    model: Fact[str | None] = None
    finish_reason: Fact[str | None] = None
    limit: Fact[str | None] = None
    prompt: Fact[str | None] = None
    usage: Fact[Usage] = Usage()
    cost_usd: Fact[Amount | None] = ZERO
    completed_at: Fact[datetime | None] = None

    def event_line(self, event: Document) -> Sequence[object]:
        return (
            seconds(self.duration_ms),
            dollars(self.cost_usd),
            finish(self.finish_reason),
            fault(self.error),
        )


class AttemptEnded(
    _OutcomePayload, type="attempt.ended", topic=topics.TASK_RESULTS, listed="the outcome of an attempt"
):
    def event_line(self, event: Document) -> Sequence[object]:
        return self.status, *super().event_line(event)


class TaskEnded(
    _OutcomePayload,
    type="task.succeeded task.failed task.cancelled task.timed_out",
    topic=topics.TASK_PROGRESS,
    word={
        "task.succeeded": "succeeded",
        "task.failed": "failed",
        "task.cancelled": "cancelled",
        "task.timed_out": "timed out",
    },
    listed="the outcome",
):
    """The last event of a generation."""

    generation: Fact[int] = 1


class AttemptFailed(Payload, type="attempt.failed", topic=topics.TASK_PROGRESS, word="attempt"):
    """Another may follow."""

    attempt: int
    error: Fault | None
    fault: Fact[Literal["agent", "caller", "provider", "mesh"]]
    """agent, caller, provider or mesh"""

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.attempt or '?'} of {event['agent_id']} failed: {fault(self.error)}",)


class TaskRedriven(WorkPayload, type="task.redriven"):
    """The bus had lost it."""

    lost: Literal["dispatch", "outcome"]
    """dispatch or outcome"""


class TaskCancelling(Payload, type="task.cancelling", topic=topics.TASK_PROGRESS, word="cancelling"):
    reason: str

    def event_line(self, event: Document) -> Sequence[object]:
        return (fault(self.reason),)


class TaskRetried(Payload, type="task.retried", topic=topics.TASK_PROGRESS, word="retried"):
    generation: Fact[int]
    begin: Fact[Literal["journal", "start"]]
    """journal or start"""
    thread_id: str
    error: Fault | None

    def event_line(self, event: Document) -> Sequence[object]:
        place = "its journal" if self.begin == "journal" else "the start"
        return f"from {place}", f"after {fault(self.error)}"


class TaskDeadLettered(Payload, type="task.dead_lettered"):
    """No attempt is left."""

    tried: list[str]
    error: Fault | None
    capability: Fact[str]

    def event_line(self, event: Document) -> Sequence[object]:
        agents = ", ".join(dict.fromkeys(self.tried))
        return f"tried by {agents}" if agents else f"no agent took it for {self.capability}", fault(
            self.error
        )


class TaskScored(Payload, type="task.scored", topic=topics.TASK_PROGRESS, word="scored"):
    name: Fact[str]
    value: Fact[float | int | None]
    comment: str
    by: Fact[str]

    def event_line(self, event: Document) -> Sequence[object]:
        return (
            f"{short(self.name)} {number(self.value)}",
            self.by and f"by {short(self.by)}",
            short(self.comment),
        )


class WorkBrokeOff(WorkPayload, type="work.broke_off", word="broke off"):
    """The process ended."""

    error: str
    breaks: int
    most: Fact[int]

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.breaks or '?'} of {self.most or '?'}: {fault(self.error)}",)


class WorkDiscarded(Payload, type="work.discarded"):
    """Work that no longer owned its task."""

    fence: int
    current: Fact[int]


class WorkStopping(Payload, type="work.stopping"):
    """That worker has to stop, not stored."""

    task_id: str
    fence: int
    owner: Fact[str | None]


class TenantLimited(Payload, type="tenant.limited", unlisted="setting"):
    limit: Fact[str]
    """setting"""
    refused: Fact[int]
    """how often"""
    setting: Fact[str] = ""


EVENTS = declared(__name__)

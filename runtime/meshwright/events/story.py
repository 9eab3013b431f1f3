"""What the events of a task make of its row in the list of tasks: one event at a time, in order of `seq`.

An ended generation takes nothing more, and an attempt nothing from those before it, so that events which
arrive late do no harm. A payload that is not of its type's shape counts as empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from meshwright.events.filter import seconds
from meshwright.messages import Dispatch, Event, Outcome, Task

MAX_REASON_CHARS = 500
MAX_FIGURE = 2**53
Figure = Annotated[int, Field(ge=0, lt=MAX_FIGURE)]
ModelT = TypeVar("ModelT", bound=BaseModel)


class Accepted(BaseModel):
    """What the payload of task.accepted says of the task."""

    capability: str = ""
    dispatched_to: str | None = None
    priority: Figure | None = None
    requested_by: str | None = None
    thread_id: str | None = None
    parent_task_id: str | None = None
    created_at: datetime | None = None


class Progress(BaseModel):
    """What the payload of task.started, task.waiting, task.resumed or attempt.failed says."""

    attempt: Figure | None = None
    key: str | None = None
    error: Any = None


@dataclass(slots=True)
class TaskRow:
    """A row of the table `tasks`; its fields are the table's columns, its times unix seconds."""

    seq: int
    last_seq: int
    task_id: str
    tenant_id: str
    created_at: float
    updated_at: float
    capability: str = ""
    status: str = "accepted"
    agent_id: str | None = None
    priority: int | None = None
    requested_by: str | None = None
    thread_id: str | None = None
    parent_task_id: str | None = None
    trace_id: str | None = None
    generation: int = 1
    attempts: int = 0
    reason: str | None = None
    completed_at: float | None = None
    duration_ms: float | None = None
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0

    @classmethod
    def of(cls, event: Event, task_id: str) -> TaskRow:
        """The row of a task of which nothing was known before this event."""
        at, seq = seconds(event.time), event.seq or 0
        return cls(seq, seq, task_id, event.tenant_id, at, at, trace_id=event.trace_id)

    def take(self, event: Event) -> None:
        """Go one event further."""
        CHANGES[event.event_type](self, event)
        self.last_seq = event.seq or 0
        self.updated_at = seconds(event.time)

    @property
    def ended(self) -> bool:
        """Whether there is an outcome."""
        return self.completed_at is not None

    def describe(self, about: Accepted | Task, parent_task_id: str | None) -> None:
        """Fill in what never changes."""
        self.capability = about.capability
        self.priority = about.priority
        self.requested_by = about.requested_by
        self.thread_id = about.thread_id
        self.parent_task_id = parent_task_id
        if about.created_at is not None:
            self.created_at = seconds(about.created_at)


def accept(row: TaskRow, event: Event) -> None:
    """task.accepted."""
    accepted = shaped(Accepted, event) or Accepted()
    if row.thread_id is None:
        row.describe(accepted, accepted.parent_task_id)
    row.agent_id = row.agent_id or accepted.dispatched_to


def dispatch(row: TaskRow, event: Event) -> None:
    """task.dispatched: a new attempt, or with a later generation a new beginning."""
    dispatch = shaped(Dispatch, event)
    if dispatch is None:
        return
    task = dispatch.task
    if not sane(dispatch.attempt, task.generation, task.priority):
        return
    if row.thread_id is None:
        row.describe(task, task.parent.task_id if task.parent else None)
    if task.generation > row.generation:
        row.generation, row.attempts = task.generation, 0
        row.completed_at = row.duration_ms = row.model = None
        row.prompt_tokens, row.completion_tokens, row.cost_usd = 0, 0, 0.0
    if task.generation == row.generation and dispatch.attempt > row.attempts and not row.ended:
        row.status, row.attempts, row.reason = "dispatched", dispatch.attempt, None
        row.agent_id = dispatch.agent_id


def work(status: str) -> Callable[[TaskRow, Event], None]:
    """task.started, task.waiting or task.resumed."""

    def change(row: TaskRow, event: Event) -> None:
        progress = shaped(Progress, event) or Progress()
        attempt = row.attempts if progress.attempt is None else progress.attempt
        if not row.ended and attempt >= row.attempts:
            row.status, row.attempts = status, attempt
            row.agent_id = event.agent_id or row.agent_id
            row.reason = progress.key if status == "waiting" else None

    return change


def fail(row: TaskRow, event: Event) -> None:
    """attempt.failed: another may follow."""
    progress = shaped(Progress, event) or Progress()
    if not row.ended and (progress.attempt is None or progress.attempt >= row.attempts):
        row.reason = reason(progress.error)


def end(status: str) -> Callable[[TaskRow, Event], None]:
    """The outcome of a task."""

    def change(row: TaskRow, event: Event) -> None:
        outcome = outcome_of(event)
        generation = row.generation if outcome is None else outcome.generation
        if generation < row.generation or (row.ended and generation == row.generation):
            return
        row.generation, row.status = generation, status
        row.completed_at = seconds(event.time)
        if outcome is not None:
            row.capability = row.capability or outcome.capability
            row.agent_id = outcome.agent_id
            row.attempts = max(row.attempts, outcome.attempt)
            row.reason = reason(outcome.error)
            row.completed_at = seconds(outcome.completed_at)
            row.duration_ms = outcome.duration_ms
            row.model = outcome.model
            row.prompt_tokens = outcome.usage.prompt_tokens
            row.completion_tokens = outcome.usage.completion_tokens
            row.cost_usd = outcome.cost_usd

    return change


CHANGES: dict[str, Callable[[TaskRow, Event], None]] = {
    "task.accepted": accept,
    "task.dispatched": dispatch,
    "task.started": work("running"),
    "task.waiting": work("waiting"),
    "task.resumed": work("running"),
    "attempt.failed": fail,
    "task.succeeded": end("succeeded"),
    "task.failed": end("failed"),
    "task.cancelled": end("cancelled"),
    "task.timed_out": end("timed_out"),
}
"""What each type of event changes; all other events change nothing."""


def outcome_of(event: Event) -> Outcome | None:
    """The outcome that is an event's payload; None if it is not one, or its figures make no sense."""
    outcome = shaped(Outcome, event)
    if outcome is None or not sane(
        outcome.attempt,
        outcome.generation,
        outcome.duration_ms,
        outcome.cost_usd,
        outcome.usage.prompt_tokens,
        outcome.usage.completion_tokens,
    ):
        return None
    return outcome


def sane(*figures: float) -> bool:
    """Whether all are numbers that every part of the mesh can hold exactly."""
    return all(abs(figure) < MAX_FIGURE for figure in figures)  # NaN is not less than anything


def shaped(model: type[ModelT], event: Event) -> ModelT | None:
    """An event's payload as a model; None if it does not fit."""
    payload = event.payload
    if isinstance(payload, model):
        return payload
    try:
        return model.model_validate(payload.model_dump() if isinstance(payload, BaseModel) else payload)
    except ValidationError:
        return None


def reason(error: Any) -> str | None:
    """An error in one line."""
    if isinstance(error, BaseModel):
        error = error.model_dump()
    if not isinstance(error, dict):
        return None
    return f"{error.get('type', 'Error')}: {error.get('message', '')}"[:MAX_REASON_CHARS]

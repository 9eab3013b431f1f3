"""What the events of a task make of its row in the list of tasks: one event at a time, in order of `seq`.

An ended generation takes nothing more, and an attempt nothing from those before it, so that events which
arrive late do no harm. A payload that is not of its type's shape counts as empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from meshwright.encoding import Json, decode
from meshwright.events.filter import seconds
from meshwright.messages import Dispatch, Event, Outcome, Task

MAX_REASON_CHARS = 500
MAX_FIGURE = 2**53  # every part of the mesh can hold smaller ones exactly
ModelT = TypeVar("ModelT", bound=BaseModel)


class TaskRow:
    """A row of the table `tasks`; its fields are the table's columns, its times unix seconds."""

    seq: int
    last_seq: int
    task_id: str
    tenant_id: str
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
    created_at: float
    updated_at: float
    completed_at: float | None = None
    duration_ms: float | None = None
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: str | None = "0"

    def __init__(self, **columns: Any) -> None:
        self.__dict__.update(columns)

    @classmethod
    def of(cls, event: Event, task_id: str) -> TaskRow:
        """The row of a task of which nothing was known before this event."""
        return cls(
            seq=event.seq,
            task_id=task_id,
            tenant_id=event.tenant_id,
            trace_id=event.trace_id,
            created_at=seconds(event.time),
        )

    def take(self, events: Sequence[Event]) -> None:
        """Go on by the events that came next."""
        for event in events:
            CHANGES[event.event_type](self, event)
        self.last_seq = events[-1].seq or 0
        self.updated_at = seconds(events[-1].time)

    @property
    def ended(self) -> bool:
        """Whether there is an outcome."""
        return self.completed_at is not None

    def describe(self, task: Task) -> None:
        """Fill in what never changes."""
        self.capability = task.capability
        self.priority = task.priority
        self.requested_by = task.requested_by
        self.thread_id = task.thread_id
        self.parent_task_id = task.parent.task_id if task.parent else None
        self.created_at = seconds(task.created_at)


COLUMNS = tuple(TaskRow.__annotations__)


def accept(row: TaskRow, event: Event) -> None:
    """task.accepted. What else there is to know of the task comes with its dispatch."""
    told = fields_of(event)
    row.capability = row.capability or text(told, "capability") or ""
    row.agent_id = row.agent_id or text(told, "dispatched_to")
    row.thread_id = row.thread_id or text(told, "thread_id")
    row.requested_by = row.requested_by or text(told, "requested_by")
    row.parent_task_id = row.parent_task_id or text(told, "parent_task_id")
    if row.priority is None:
        row.priority = whole(told, "priority")


def dispatch(row: TaskRow, event: Event) -> None:
    """task.dispatched: a new attempt, or with a later generation a new beginning."""
    dispatch = shaped(Dispatch, event)
    if dispatch is None:
        return
    task = dispatch.task
    if not (sane(dispatch.attempt) and sane(task.generation) and sane(task.priority)):
        return
    row.describe(task)
    if task.generation > row.generation:
        row.generation, row.attempts = task.generation, 0
        row.completed_at = row.duration_ms = row.model = None
        row.prompt_tokens, row.completion_tokens, row.cost_usd = 0, 0, "0"
    if task.generation == row.generation and dispatch.attempt > row.attempts and not row.ended:
        row.status, row.attempts, row.reason = "dispatched", dispatch.attempt, None
        row.agent_id = dispatch.agent_id


def work(status: str) -> Callable[[TaskRow, Event], None]:
    """task.started, task.waiting or task.resumed."""

    def change(row: TaskRow, event: Event) -> None:
        told = fields_of(event)
        attempt = whole(told, "attempt") or row.attempts
        if not row.ended and attempt >= row.attempts:
            row.status, row.attempts = status, attempt
            row.agent_id = event.agent_id or row.agent_id
            row.reason = text(told, "key") if status == "waiting" else None

    return change


def fail(row: TaskRow, event: Event) -> None:
    """attempt.failed: another may follow."""
    told = fields_of(event)
    if not row.ended and (whole(told, "attempt") or row.attempts) >= row.attempts:
        row.reason = reason(told.get("error"))


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
            row.cost_usd = None if outcome.cost_usd is None else f"{outcome.cost_usd:f}"

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
    if outcome is None or not (sane(outcome.attempt) and sane(outcome.generation)):
        return None
    usage = outcome.usage
    tokens_are_sane = sane(usage.prompt_tokens) and sane(usage.completion_tokens)
    return (
        outcome
        if tokens_are_sane and sane(outcome.duration_ms) and sane(float(outcome.cost_usd or 0))
        else None
    )


def sane(figure: float) -> bool:
    """Whether it is a number, and not absurd."""
    return -MAX_FIGURE < figure < MAX_FIGURE  # which NaN is not


def shaped(model: type[ModelT], event: Event) -> ModelT | None:
    """An event's payload as a model; None if it does not fit."""
    payload = event.payload
    try:
        if isinstance(payload, Json):
            return model.model_validate_json(payload)
        return model.model_validate(payload.model_dump() if isinstance(payload, BaseModel) else payload)
    except ValidationError:
        return None


def fields_of(event: Event) -> dict[str, Any]:
    """The fields of a payload; none where it is no object."""
    payload = decode(event.payload) if isinstance(event.payload, Json) else event.payload
    return payload if isinstance(payload, dict) else {}


def text(told: dict[str, Any], name: str) -> str | None:
    """A field that holds text."""
    value = told.get(name)
    return value if isinstance(value, str) else None


def whole(told: dict[str, Any], name: str) -> int | None:
    """A field that holds a whole number, not negative."""
    value = told.get(name)
    return value if type(value) is int and 0 <= value < MAX_FIGURE else None


def reason(error: Any) -> str | None:
    """An error in one line."""
    if isinstance(error, BaseModel):
        error = error.model_dump()
    if not isinstance(error, dict):
        return None
    return f"{error.get('type', 'Error')}: {error.get('message', '')}"[:MAX_REASON_CHARS]

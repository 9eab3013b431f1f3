"""The span of a task, recorded when the task ends: the root of its trace, or below the span of its caller."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from meshwright.agents.run.question import render_request
from meshwright.core.errors import AgentError, MeshError, is_own_fault
from meshwright.core.messages import Fault, Outcome, Task
from meshwright.core.redaction import foreign_words
from meshwright.core.tracing import (
    MAX_MESSAGE_CHARS,
    TASK_ID,
    TASK_STATUS,
    TENANT,
    TRACE_NAME,
    GenAI,
    NoTracing,
    Record,
    Tracing,
    new_span,
    parse,
    text_messages,
)

_FIRST, _AGAIN = "submit task", "retry task"


class TaskEnding(NamedTuple):
    """The end of a task, or of its generation, that began at a time."""

    task: Task
    outcome: Outcome
    began_at: datetime


class TaskSpans:
    """Records the spans of tasks. The process that committed the end of a task has `end` called."""

    def __init__(self, tracing: Tracing | NoTracing) -> None:
        self._tracing = tracing

    def end(self, ended: TaskEnding) -> None:
        """Record the span of a task that has ended, with its state, and its contents if settings allow it."""
        task, outcome, began_at = ended
        span = _new_record(task, began_at, outcome.completed_at)
        if span is None:
            return
        span["attributes"][TASK_STATUS] = outcome.status
        if outcome.error is not None:
            self._fail(span, outcome.error)
        if self._tracing.content:
            messages = {GenAI.INPUT_MESSAGES: text_messages("user", render_request(task.payload))}
            if outcome.success:
                messages[GenAI.OUTPUT_MESSAGES] = text_messages("assistant", outcome.answer)
            span["attributes"].update(messages)
        self._tracing.record(span, task.traceparent)

    def refused(self, task: Task, error: MeshError, at: datetime) -> None:
        """Record the span of a task that was not accepted."""
        if (span := _new_record(task, task.created_at, at)) is not None:
            self._fail(span, Fault(type=error.code, message=str(error)))
            self._tracing.record(span, task.traceparent)

    def _fail(self, span: Record, error: Fault) -> None:
        """Mark it as failed. Without contents it gets the message of our own errors alone.

        Other errors may quote a prompt or a key, and an AgentError may quote such an error.
        """
        is_own = error.type != AgentError.__name__ and is_own_fault(error.type)
        has_message = is_own or self._tracing.content
        message = foreign_words(error.message, max_chars=MAX_MESSAGE_CHARS) if has_message else ""
        span["status"], span["status_message"] = "error", message
        span["attributes"][GenAI.ERROR_TYPE] = error.type


def _new_record(task: Task, began_at: datetime, ended_at: datetime) -> Record | None:
    """The record of a task's span; None where it has none."""
    context = parse(task.traceparent) if task.traceparent is not None else None
    if context is None or task.span_above is None:
        return None
    span = new_span(
        _FIRST if task.generation == 1 else _AGAIN,
        trace_id=context.trace_id,
        span_id=context.span_id,
        above_id=task.span_above or None,
        attributes={
            TENANT: task.tenant_id,
            GenAI.CONVERSATION_ID: task.thread_id,
            TRACE_NAME: task.capability or task.agent_id or "",
            TASK_ID: task.task_id,
        },
        kind="server",
        start_time=_nanoseconds(began_at),
    )
    span["end_time"] = max(span["start_time"], _nanoseconds(ended_at))  # clocks of two workers differ
    return span


def _nanoseconds(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000) * 1_000

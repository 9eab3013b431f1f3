"""Waits of a run for the outside: answers of people, and events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from meshwright.core import topics
from meshwright.core.errors import (
    AgentError,
    sentence,
)
from meshwright.core.redaction import Marks, redact, redact_data
from meshwright.models.structure import ShapeT
from meshwright.run.state import RunState
from meshwright.work.people import HIDDEN, WAITED_FOR, hidden_words, sealed_text
from meshwright.work.protocol import Wait

_TEXT = {"type": "string", "minLength": 1}
_MAX_QUESTION_CHARS = 10_000
_MAX_ABOUT_BYTES = 64 * 1024  # of what is shown with a question, which is a part of its thread's state


async def ask_person(
    state: RunState,
    question: str,
    shape: type[ShapeT] | None,
    *,
    expires: timedelta | datetime | None = None,
    about: Mapping[str, Any] | None = None,
    may_answer: Sequence[str] = (),
) -> str | ShapeT:
    """Ask until an answer fits; see `Run.ask_person`."""
    _check(question, shape)
    marks, plain = Marks(), _plain(about)
    text, visible_data = redact(question, marks), redact_data(plain, marks)
    hidden = {HIDDEN: marks.counts} if marks.lines or HIDDEN in plain else {}
    subject = {**visible_data, **hidden, "kind": "question", "agent_id": state.agent.agent_id}
    sealed = (sealed_text(state.services.seal, plain, question),) if marks.lines else ()
    schema = _TEXT if shape is None else shape.model_json_schema()
    reason = " ".join(filter(None, [text, hidden_words(hidden)]))
    again = redact(question)
    while True:
        answer = await state.journal.wait(
            "ask_person",
            {"question": question, "about": about, "again": again},
            kind="person",
            reason=reason,
            subject=subject,
            answer_schema=schema,
            may_answer=tuple(may_answer),
            sealed=sealed,
            expires_at=_end_of(state, expires),
        )
        if shape is None:
            return str(answer)
        try:
            return shape.model_validate(answer)
        except ValidationError as error:  # of what a JSON schema cannot say
            problems = error.errors(include_url=False, include_input=False)
            errors = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'it'}: {sentence(one)}" for one in problems
            )
            problem = f" (The last answer was not accepted: {errors}.)"
            again, reason = redact(question) + problem, reason + problem


async def wait_event(
    state: RunState, topic: str, match: Mapping[str, Any] | None, expires: timedelta | datetime | None
) -> dict[str, Any]:
    """Wait for an event; see `Run.wait_event`."""
    try:
        topics.matcher(topic)
    except (ValueError, AttributeError) as error:
        raise AgentError(f"{topic!r} is no topic: {error}", remedy="Write one like app.orders") from error
    fields = _plain(match)
    if isinstance(event_type := fields.get("event_type"), str):
        fields["event_type"] = topics.type_on(topic, event_type)
    conditions = "".join(f", {name} = {json.dumps(value)}" for name, value in redact_data(fields).items())
    return await state.journal.wait(
        "wait_event",
        {"topic": topic, "match": fields},
        kind="event",
        reason=f"waits for an event on {topic}{conditions}",
        subject={"topic": topic, "match": fields},
        expires_at=None if expires is None else _end_of(state, expires),
    )


def waits_for(wait: Wait) -> str:
    """Says as a clause for the conversation of a thread why a request is still open."""
    return f"waits for {WAITED_FOR[wait.kind]}{f': {wait.reason}' if wait.kind == 'person' else ''}"


def _check(question: object, shape: object) -> None:
    if not isinstance(question, str) or not 0 < len(question.strip()) <= _MAX_QUESTION_CHARS:
        raise AgentError(
            "run.ask_person needs a question as text",
            remedy=f"Ask in up to {_MAX_QUESTION_CHARS:,} characters; more goes into about={{...}}",
        )
    if shape is not None and not (isinstance(shape, type) and issubclass(shape, BaseModel)):
        raise AgentError(f"the shape {shape!r} is no pydantic model", remedy="Name a class, such as Approval")


def _plain(about: Mapping[str, Any] | None) -> Any:
    """Plain data of an open wait. Raises AgentError for what JSON cannot hold, or is too long."""
    try:
        data = to_json(dict(about or {}), inf_nan_mode="null")
    except (TypeError, ValueError) as error:
        raise AgentError(
            f"what is given with a wait is not what JSON can hold: {error}", remedy="Give it plain data"
        ) from error
    if len(data) > _MAX_ABOUT_BYTES:
        raise AgentError(
            f"what is given with a wait has {len(data):,} bytes, and may have {_MAX_ABOUT_BYTES:,}",
            remedy="Show what the person needs to decide",
        )
    return from_json(data)


def _end_of(state: RunState, expires: timedelta | datetime | None) -> datetime:
    now = state.services.clock.now()
    if isinstance(expires, datetime):
        if expires.tzinfo is None:
            raise AgentError(f"expires={expires} has no time zone", remedy="Give it one, or a timedelta")
        return expires
    return now + (timedelta(days=state.services.patience_days) if expires is None else expires)

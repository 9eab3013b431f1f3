"""The facts that a caller without the right to contents sees: states, names, counts, times and costs.

Of an event's payload only fields that its part names as facts are shown, and only short ones: a field that
a new kind of event brings is hidden until it is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from msgspec.structs import replace

from meshwright.core import topics
from meshwright.core.access import Role
from meshwright.core.messages import Caller, Event, Fault
from meshwright.events.status import MeshStatus
from meshwright.events.tasks import TaskPage
from meshwright.identity.rules import has_role, is_own
from meshwright.work.record import TaskView

_ALWAYS = frozenset(["agent_id", "attempt", "fence", "step", "task_id", "tenant_id", "thread_id", "version"])
"""The fields that name what an event is about, in the events of every part."""
_MAX_CHARS = 128
_MAX_ITEMS = 64


def event_facts(event: Event, known: Mapping[str, Set[str]]) -> Event | None:
    """An event without its contents; None for a piece of an answer, which is nothing else.

    `known` has the fields of payloads that are facts, by type of event or `family.*`.
    """
    kind = event.event_type
    if kind == topics.MODEL_DELTA:
        return None
    fields: Mapping[str, Any] = {} if event.topic.startswith(topics.APPLICATION) else event.fields
    names = _ALWAYS | (known.get(kind) or known.get(f"{kind.partition('.')[0]}.*") or frozenset())
    facts = {name: value for name, value in fields.items() if name in names and _is_fact(value)}
    error = fields.get("error")
    if isinstance(error, dict) and isinstance(error.get("type"), str):
        facts["error"] = {"type": error["type"]}
    return replace(event, payload=facts, idempotency_key=None)


def _task_facts(view: TaskView) -> TaskView:
    """A task without its payload, its answer, and what was said of its failure or its waits."""
    outcome = view.outcome
    if outcome is not None:
        outcome = replace(outcome, result=None, files=(), error=_named(outcome.error))
    return replace(
        view,
        payload={},
        outcome=outcome,
        attempts=tuple(replace(attempt, error=_named(attempt.error)) for attempt in view.attempts),
        waits=tuple(replace(wait, reason="", subject={}, answer_schema=None) for wait in view.waits),
    )


def sees_contents(view: TaskView, caller: Caller) -> bool:
    """Whether a caller may see what a task says and was sent."""
    return has_role(caller, Role.CONTENTS) or is_own(caller, view.requested_by)


def shown(view: TaskView, caller: Caller) -> TaskView:
    """A task as a caller may see it."""
    return view if sees_contents(view, caller) else _task_facts(view)


def page_facts(page: TaskPage) -> TaskPage:
    """Tasks without the reasons of their failures and waits."""
    return page.model_copy(
        update={"items": tuple(item.model_copy(update={"reason": None}) for item in page.items)}
    )


def status_facts(status: MeshStatus) -> MeshStatus:
    """A status without the reasons of waits."""
    return status.model_copy(
        update={"waits": tuple(wait.model_copy(update={"reason": ""}) for wait in status.waits)}
    )


def _named(error: Fault | None) -> Fault | None:
    return None if error is None else Fault(type=error.type, message="")


def _is_fact(value: Any) -> bool:
    """Whether a value is too small and too plain to hold contents."""
    if isinstance(value, dict):
        return len(value) <= _MAX_ITEMS and all(map(_is_scalar, [*value, *value.values()]))
    if isinstance(value, list):
        return len(value) <= _MAX_ITEMS and all(map(_is_scalar, value))
    return _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, int | float)
        or (isinstance(value, str) and len(value) <= _MAX_CHARS)
    )

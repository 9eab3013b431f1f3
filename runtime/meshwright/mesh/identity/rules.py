"""The rules that several operations go by, and the facts that viewers see.

A caller without the right to contents sees states, names, counts, times and costs. Of an event's payload
only fields that its part names as facts are shown, and only short ones: a field that a new kind of event
brings is hidden until it is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from meshwright.core import topics
from meshwright.core.access import Role
from meshwright.core.capability import LLM_SERVICE
from meshwright.core.errors import Forbidden
from meshwright.core.events import Event
from meshwright.core.messages import Caller, Fault
from meshwright.core.operations import Rule as Rule
from meshwright.core.operations import has_role as has_role
from meshwright.core.operations import is_own as is_own
from meshwright.core.operations import require as require
from meshwright.core.operations import visible_tenant as visible_tenant
from meshwright.core.payloads import Payload, fact_fields, find_payload, redacted
from meshwright.engine.work.people import is_decision
from meshwright.engine.work.protocol import Wait
from meshwright.engine.work.record import TaskView
from meshwright.models.port import CallContext

SEE = (Role.VIEWER, Role.SUBMITTER)
READ = (Role.CONTENTS, Role.SUBMITTER)
VIEWER, SUBMITTER, OPERATOR, ADMIN = (Role.VIEWER,), (Role.SUBMITTER,), (Role.OPERATOR,), (Role.ADMIN,)
_ANSWER = (Role.APPROVER, Role.SUBMITTER)
_CHANGE = (Role.OPERATOR, Role.SUBMITTER)

SEE_TASK = Rule("sees tasks", SEE, Role.VIEWER, "sees the tasks of others")
FOLLOW_TASK = Rule("follows tasks", SEE, Role.VIEWER, "follows the tasks of others")
READ_STEPS = Rule("sees steps", READ, Role.CONTENTS, "sees the steps of others' tasks")
EXPORT_TASK = Rule("exports tasks", READ, Role.CONTENTS, "exports the tasks of others")
READ_FILE = Rule("reads files", READ, Role.CONTENTS, "reads the files of others' tasks")
GET_OUTCOME = Rule("gets outcomes", READ, Role.CONTENTS, "is sent the outcome of another's task")
CANCEL_TASK = Rule("cancels tasks", _CHANGE, Role.OPERATOR, "cancels the tasks of others")
RETRY_TASK = Rule("retries tasks", _CHANGE, Role.OPERATOR, "retries the tasks of others")
SCORE_TASK = Rule("scores tasks", _CHANGE, Role.OPERATOR, "scores the tasks of others")
FORK_TASK = Rule("forks tasks", SUBMITTER, Role.CONTENTS, "forks the tasks of others")
ANSWER_TASK = Rule("answers questions", _ANSWER, Role.APPROVER, "answers the tasks of others")
REVEAL_QUESTION = Rule(
    "reads hidden parts of questions",
    _ANSWER,
    Role.APPROVER,
    "reads the hidden parts of questions of others' tasks",
)


def check_answer(caller: Caller, view: TaskView, key: str) -> None:
    """Raises Forbidden for a submitter who is no approver, but where a task's question is for it.

    It is if it names the caller or went on to it, or where the caller made the task and no approval is asked
    for.
    """
    wait = next((wait for wait in view.waits if wait.wait_id == key), None)
    named = () if wait is None else (*wait.may_answer, *wait.escalated_to)
    if has_role(caller, Role.APPROVER) or caller.requested_by in named:
        return
    if wait is not None and is_decision(wait):
        require(caller, Role.APPROVER, "decides on approvals")
    ANSWER_TASK.check_task(caller, view.requested_by)


def answerable(view: TaskView, caller: Caller) -> list[Wait]:
    """Returns the questions of a task that its caller may answer, the oldest first."""
    waits: list[Wait] = []
    for wait in view.waits:
        if wait.kind == "person" and (not wait.may_answer or caller.requested_by in wait.may_answer):
            with suppress(Forbidden):
                check_answer(caller, view, wait.wait_id)
                waits.append(wait)
    return waits


def call_context(caller: Caller, *, tenant_id: str | None = None, user: str | None = None) -> CallContext:
    """Returns who pays for a call of a model that may name a tenant and a user.

    Both count for a caller of all tenants alone: any other pays as its credentials say, and may name no other
    tenant (Forbidden).
    """
    if caller.all_tenants:
        tenant_id, user = tenant_id or caller.tenant_id, user or LLM_SERVICE
    elif tenant_id in (None, caller.tenant_id):
        tenant_id, user = caller.tenant_id, caller.requested_by
    else:
        raise Forbidden(
            f"The key is of tenant {caller.tenant_id!r}, and no other may be named",
            remedy="Leave tenant_id out",
            field="tenant_id",
        )
    return CallContext(
        purpose=LLM_SERVICE, tenant_id=tenant_id, agent_id=user, key_id=caller.key_id, budgets=caller.budgets
    )


_ALWAYS = frozenset(["agent_id", "attempt", "fence", "step", "task_id", "tenant_id", "thread_id", "version"])
"""The fields that name what an event is about, in the events of every part."""
_MAX_CHARS = 128
_MAX_ITEMS = 64


def event_facts(event: Event, kinds: Mapping[str, type[Payload]]) -> Event | None:
    """An event without its contents; None for a piece of an answer, which is nothing else.

    `kinds` has the payloads by type of event or `family.*`.
    """
    if event.event_type == topics.MODEL_DELTA:
        return None
    kind = find_payload(kinds, event.event_type)
    fields: Mapping[str, Any] = {} if event.topic.startswith(topics.APPLICATION) else event.fields
    names = _ALWAYS if kind is None else _ALWAYS | fact_fields(kind)
    facts = {name: value for name, value in fields.items() if name in names and _is_fact(value)}
    error = fields.get("error")
    if isinstance(error, dict) and isinstance(error.get("type"), str):
        facts["error"] = {"type": error["type"]}
    return replace(event, payload=facts, idempotency_key=None)


def sees_contents(view: TaskView, caller: Caller) -> bool:
    """Whether a caller may see what a task says and was sent."""
    return has_role(caller, Role.CONTENTS) or is_own(caller, view.requested_by)


def shown(view: TaskView, caller: Caller) -> TaskView:
    """A task as a caller may see it."""
    return view if sees_contents(view, caller) else redacted(view)


def named(error: Fault | None) -> Fault | None:
    """An error without what it said."""
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

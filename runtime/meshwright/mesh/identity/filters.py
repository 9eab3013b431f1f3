"""Filters of callers: times are read, and a value that never was is refused with those that there are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field

from meshwright.agents.prompts import PromptSources
from meshwright.core.access import Role
from meshwright.core.errors import InvalidInput, MeshError, NotFound, error_of_code, nearest
from meshwright.core.ids import Identifier
from meshwright.core.messages import Caller, TaskStatus
from meshwright.core.operations import Input, require
from meshwright.core.task_events import WaitKind
from meshwright.engine.events.filter import LACKS
from meshwright.engine.events.task_lists import known_values
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.registry import Registry
from meshwright.money.costs import parse_since

Text = Annotated[str, Field(min_length=1, max_length=128)]
Cursor = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
InboxCursor = Annotated[str, Field(pattern=r"^([a-z]{1,20}:)?[0-9]{1,18}$")]


def _read_time(value: Any) -> Any:
    try:
        return parse_since(value, datetime.now(UTC)) if isinstance(value, str) else value
    except InvalidInput as error:
        raise ValueError(f"{error.message}; {error.remedy}") from None


Time = Annotated[AwareDatetime, BeforeValidator(_read_time)]
"""A time: `24h` ago (s, m, h, d or w), or RFC 3339."""


class TaskCriteria(BaseModel):
    """Fields of a task: an event or a cost agrees with them where its task does."""

    status: TaskStatus | None = None
    capability: Identifier | None = None
    thread_id: Identifier | None = None
    parent_task_id: Identifier | None = None
    requested_by: Text | None = None
    model: Text | None = None
    prompt: Text | None = Field(
        default=None,
        description="That of a call of a model: `NAME`, or `NAME@DIGEST` for a version, of which the first "
        "characters are enough.",
    )
    tag: Text | None = Field(default=None, description="One of a call of a model.")
    error: Text | None = Field(default=None, description="The type of the error by which it failed.")
    text: Text | None = Field(
        default=None,
        description='Words in the request, title, questions, answer or error. A "phrase" is exact, `word*` a '
        "beginning.",
    )


class TaskQuery(Input, TaskCriteria):
    """Tasks that agree with every field given. A value that there never was is a 404, with those there are.

    `task_id` is the beginning or the end of their ids; `since` and `until` bound the time of their last
    change.
    """

    agent_id: Identifier | None = None
    task_id: Text | None = None
    waits_for: WaitKind | None = Field(default=None, description="The kind of thing that they wait for now.")
    waits_for_model: Text | None = Field(
        default=None, description="The group or the deployment of a model that they wait for now."
    )
    dead: bool | None = Field(default=None, description="With true, those that failed or timed out.")
    lacks: str | None = Field(
        default=None,
        pattern=LACKS,
        description="Fields without a value: `agent_id`, `error`, or both by comma.",
    )
    since: Time | None = None
    until: Time | None = None
    limit: int = Field(default=50, ge=1, le=500)


class TaskPageQuery(TaskQuery):
    """A page of such tasks; `cursor` is the `cursor` of the page before."""

    cursor: Cursor | None = None


_NAMES = {
    "agent_id": "agent",
    "capability": "capability",
    "thread_id": "thread",
    "parent_task_id": "task",
    "requested_by": "requester",
    "model": "model",
    "prompt": "prompt",
    "error": "error",
}
"""The fields whose values are checked, in the words of people."""
_MAX_NAMED = 5


def read_filter(mesh: Mesh, caller: Caller, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a filter with its times read: `24h` ago, or RFC 3339.

    Raises InvalidInput for another time, Forbidden for a `text` of a caller who may not read contents.
    """
    if fields.get("text") is not None:
        require(caller, Role.CONTENTS, "searches in the texts of tasks")
    now = mesh.runtime.clock.now()
    times = {
        name: parse_since(fields[name], now, field=name)
        for name in ("since", "until")
        if isinstance(fields.get(name), str)
    }
    return {**fields, **times}


async def require_known(
    mesh: Mesh, fields: Mapping[str, Any], tenant_id: str | None, *, of_calls: bool = False
) -> None:
    """Raises NotFound for a value that nothing ever had: no task, nor with `of_calls` a call of a model.

    It is for filters by which nothing was found: one that finds something has no such value.
    """
    registry = mesh.get(Registry)
    registered = {
        "agent_id": [agent.agent_id for agent in registry.agents()],
        "capability": registry.capabilities(),
        "prompt": () if "@" in (fields.get("prompt") or "") else mesh.get(PromptSources).names(),
    }
    for field, name in _NAMES.items():
        value = fields.get(field)
        if value is None or value in registered.get(field, ()):
            continue
        if field == "error" and error_of_code(value, MeshError):  # no task has failed by it yet
            continue
        past = await mesh.log.view_apart(known_values, tenant_id, field, value, of_calls=of_calls)
        if past is None:
            continue
        values = [*dict.fromkeys([*registered.get(field, ()), *past])]
        listed = ", ".join(values[:_MAX_NAMED]) + (", ..." if len(values) > _MAX_NAMED else "")
        close = nearest(value, values)
        raise NotFound(
            f"There is no {name} {value!r}, and no task ever named it",
            remedy=f"Did you mean {close}?" if close else f"Known are {listed or 'none'}",
            field=field,
        )

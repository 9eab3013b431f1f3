"""Filters of callers: times are read, and a value that never was is refused with those that there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwright.core.access import Role
from meshwright.core.errors import MeshError, NotFound, error_of_code, nearest
from meshwright.core.messages import Caller
from meshwright.core.operations import require
from meshwright.events.task_lists import known_values
from meshwright.ledger.costs import since_of
from meshwright.mesh import Mesh
from meshwright.orchestration.registry import Registry
from meshwright.prompts import PromptSources

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


def read_filter(mesh: Mesh, caller: Caller, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a filter with its times read: `24h` ago, or RFC 3339.

    Raises InvalidInput for another time, Forbidden for a `text` of a caller who may not read contents.
    """
    if wanted.get("text") is not None:
        require(caller, Role.CONTENTS, "searches in the texts of tasks")
    now = mesh.runtime.clock.now()
    times = {
        name: since_of(wanted[name], now, field=name)
        for name in ("since", "until")
        if isinstance(wanted.get(name), str)
    }
    return {**wanted, **times}


async def require_known(
    mesh: Mesh, wanted: Mapping[str, Any], tenant_id: str | None, *, of_calls: bool = False
) -> None:
    """Raises NotFound for a value that nothing ever had: no task, nor with `of_calls` a call of a model.

    It is for filters by which nothing was found: one that finds something has no such value.
    """
    registry = mesh.get(Registry)
    registered = {
        "agent_id": [agent.agent_id for agent in registry.agents()],
        "capability": registry.capabilities(),
        "prompt": () if "@" in (wanted.get("prompt") or "") else mesh.get(PromptSources).names(),
    }
    for field, name in _NAMES.items():
        value = wanted.get(field)
        if value is None or value in registered.get(field, ()):
            continue
        if field == "error" and error_of_code(value, MeshError):  # no task has failed by it yet
            continue
        past = await mesh.log.view_apart(known_values, tenant_id, field, value, of_calls=of_calls)
        if past is None:
            continue
        known = [*dict.fromkeys([*registered.get(field, ()), *past])]
        listed = ", ".join(known[:_MAX_NAMED]) + (", ..." if len(known) > _MAX_NAMED else "")
        close = nearest(value, known)
        raise NotFound(
            f"There is no {name} {value!r}, and no task ever named it",
            remedy=f"Did you mean {close}?" if close else f"Known are {listed or 'none'}",
            field=field,
        )

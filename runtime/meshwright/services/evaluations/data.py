"""Reads the items of an evaluation: those that were sent, or tasks that a filter finds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from meshwright.core.access import Role
from meshwright.core.messages import Caller
from meshwright.events.audit import Audit
from meshwright.identity.operations import Operations
from meshwright.identity.rules import require
from meshwright.mesh import Mesh
from meshwright.orchestration.tasks import Tasks
from meshwright.services.evaluations.records import Data, Item, ItemState, ItemTexts, TaskSelection
from meshwright.work.record import TaskView


class SelectedItem(NamedTuple):
    """An item: its texts, its facts, and the agent that wrote its output, where a task did."""

    texts: ItemTexts
    state: ItemState
    author: str | None = None


async def read_data(mesh: Mesh, caller: Caller, data: Data, *, runs_again: bool) -> list[SelectedItem]:
    """The items of some data. With `runs_again` an agent is to answer, and answers of tasks are left out.

    Raises Forbidden for tasks of a caller who does not see contents, NotFound for a value of their filter
    that there never was.
    """
    if data.items is not None:
        return [_sent(item) for item in data.items]
    if data.tasks is not None:
        status = data.tasks.status or "succeeded"
        selection = data.tasks.model_copy(update={"status": status})
        return [_of_task(view, runs_again) for view in await _select(mesh, caller, selection)]
    assert data.failures is not None
    return [_of_task(view, True) for view in await _select(mesh, caller, data.failures, dead=True)]


def _sent(item: Item) -> SelectedItem:
    fields = item.model_dump(exclude={"label", "model"})
    if isinstance(item.input, dict):
        fields |= {"input": _request_of(item.input), "payload": item.input}
    return SelectedItem(ItemTexts.model_validate(fields), ItemState(label=item.label, model=item.model))


async def _select(
    mesh: Mesh, caller: Caller, selection: TaskSelection, *, dead: bool = False
) -> list[TaskView]:
    """The tasks that a filter finds and whose contents are still there, the newest first."""
    require(caller, Role.CONTENTS, "evaluates tasks")
    fields = selection.model_dump(exclude_none=True) | ({"dead": True} if dead else {})
    page = await Operations(mesh, caller).tasks(**fields)
    await mesh.get(Audit).record_read(caller, "tasks")
    tasks = mesh.get(Tasks)
    views = [await tasks.task(summary.task_id, caller.tenant_id) for summary in page.items]
    return [view for view in views if view.payload]


def _of_task(view: TaskView, runs_again: bool) -> SelectedItem:
    request = _request_of(view.payload)
    state = ItemState(task_id=view.task_id)
    outcome = view.outcome
    if runs_again or outcome is None:
        return SelectedItem(ItemTexts(input=request, payload=view.payload), state)
    state.model = outcome.model
    return SelectedItem(ItemTexts(input=request, output=outcome.answer), state, outcome.agent_id)


def _request_of(payload: Mapping[str, Any]) -> str:
    """The request of a payload in words: its text, or else all of it as JSON."""
    text = payload.get("text")
    if isinstance(text, str) and len(payload) == 1:
        return text
    return json.dumps(payload, ensure_ascii=False)

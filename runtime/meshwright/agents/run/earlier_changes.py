"""Reads the journals of earlier claims and attempts: costs to settle, and changes that they made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from meshwright.agents.run.state import RunState
from meshwright.agents.run.tool_calls import is_journaled, result_summary
from meshwright.core.encoding import Struct
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.core.money import ZERO
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work import Work
from meshwright.engine.work.earlier_records import read_steps
from meshwright.engine.work.protocol import DELEGATE, TOOL, EndedAttempt
from meshwright.models.port import CallContext, Settlement
from meshwright.money.budgets import Budgets

_MAX_CHANGES = 50
_MAX_FILES = 50
_MAX_PATH_CHARS = 200  # in one line: a name may have line feeds
_Value = Mapping[str, Any]
_TAKEN_OVER = """\
Earlier attempts at this task failed after they had changed something. These changes were not taken back.
Look at the state as it is before you change anything, and repeat none of them that has taken effect.
"""


class EarlierChange(Struct):
    """A call that changed something: its tool and arguments, and what came of it.

    `is_certain` says that the call ended; one that was interrupted may have taken effect. Of a task that was
    delegated and changed something, `tool` is `delegate`, and `arguments` name the agent and the task. If the
    tree of the task may have been edited, `tool` is `tree` and `arguments` name the files that differ.
    """

    attempt: int
    agent_id: str
    tool: str
    arguments: str
    result: str
    is_certain: bool = True


class EarlierChanges(Struct):
    """The changes of earlier attempts, in order; `outside`: one of these had read text from outside."""

    changes: tuple[EarlierChange, ...] = ()
    outside: bool = False

    @property
    def text(self) -> str:
        """The changes for a model; empty where there are none."""
        if not self.changes:
            return ""
        lines = [
            f"- attempt {one.attempt} by {one.agent_id}: {one.tool}({one.arguments}) -> {one.result}"
            for one in self.changes
        ]
        return "\n".join([_TAKEN_OVER, *lines])


async def earlier_changes(state: RunState) -> EarlierChanges:
    """Read the changes in the journals of the attempts that this one takes over from."""
    changes: list[EarlierChange] = []
    outside = is_edited = has_delegated = False
    for attempt in state.work.taken_over:
        ref = state.ref._replace(type=attempt.agent_id)
        records, answers = await read_steps(state.services.runtime, ref, attempt.steps, 1)
        values = [record.value for record in (*records, *answers)]
        changes += _read_changes(attempt, values)
        outside = outside or any(_is_outside(value) for value in values)
        is_edited = is_edited or any(_is_edit(value) for value in values)
        has_delegated = has_delegated or any(value.get("kind") == DELEGATE for value in values)
    if is_edited or has_delegated:
        changes += await _edits(state, has_tree=is_edited)
    return EarlierChanges(changes=tuple(changes[-_MAX_CHANGES:]), outside=outside and bool(changes))


def _read_changes(attempt: EndedAttempt, values: list[Mapping[str, Any]]) -> Iterator[EarlierChange]:
    results = {value["path"]: value["result"] for value in values if "kind" in value and "result" in value}
    for value in values:
        kind = value.get("kind", "")
        tool, result = kind.removeprefix(TOOL), value.get("result")
        origin = {"attempt": attempt.attempt, "agent_id": attempt.agent_id, "tool": tool}
        if "intent" in value and kind.startswith(TOOL):
            step_result = results.get(value["path"], "it was interrupted and may have taken effect")
            if not is_journaled(step_result):  # a person may have said what came of it
                yield EarlierChange(**origin, arguments="?", result=str(step_result), is_certain=False)
        elif not isinstance(result, dict):
            continue
        elif kind.startswith(TOOL) and "changed" in result:
            came_of_it = result.get("error") or result_summary(result.get("value")) or "done"
            certain = "uncertain" not in result
            yield EarlierChange(
                **origin, arguments=result["changed"], result=str(came_of_it), is_certain=certain
            )
        elif kind == DELEGATE and result.get("changed"):
            to = f"{result.get('agent_id')}, task {result.get('task_id')}"
            yield EarlierChange(**origin, arguments=to, result=str(result.get("status")))


async def _edits(state: RunState, *, has_tree: bool) -> list[EarlierChange]:
    """The files of the tree that differ, as one change: those that delegates and commands wrote too."""
    trees, task, last = state.services.trees, state.task, state.work.taken_over[-1]
    origin = {"attempt": last.attempt, "agent_id": last.agent_id, "tool": "tree"}
    if trees is None:
        return []
    try:
        tree = await trees.lease(task.tenant_id, task.family_id, task.repository, may_make=False)
        files = await tree.changed()
    except (ToolFailed, InvalidInput) as error:
        return (
            [EarlierChange(**origin, arguments="?", result=str(error), is_certain=False)] if has_tree else []
        )
    texts = [" ".join(f"{file.status} {file.path}".split())[:_MAX_PATH_CHARS] for file in files[:_MAX_FILES]]
    names = ", ".join(texts)
    more = f", and {len(files) - _MAX_FILES} more" if len(files) > _MAX_FILES else ""
    result = "these files of the task's tree differ from the commit that it began with"
    return [EarlierChange(**origin, arguments=names + more, result=result)] if files else []


def _is_edit(value: Mapping[str, Any]) -> bool:
    result = value.get("result")
    return isinstance(result, dict) and "edited" in result


def _is_outside(value: Mapping[str, Any]) -> bool:
    result = value.get("result")
    return bool(value.get("outside") or (isinstance(result, dict) and result.get("outside")))


async def settle_calls(runtime: Runtime, budgets: Budgets, ref: ActorRef, work: Work) -> Decimal:
    """Book what the calls of an attempt did cost, where its journal says it, and else the estimate.

    Durable when this returns. Returns the sum of the estimates. Raises HostError.
    """
    records, _ = await read_steps(runtime, ref, work.steps, work.claim + 1)
    values = [record.value for record in records]
    settlements = settlements_in(values)
    context = _call_context(ref, work)
    await budgets.recover(ref.type, context, settlements)
    await budgets.booked({settled.call for settled in settlements})
    return sum((await budgets.close(ref.type, context, _tags_in(values))).values(), ZERO)


async def open_calls(budgets: Budgets, ref: ActorRef, work: Work, values: Sequence[_Value]) -> set[str]:
    """The calls of an attempt that an account books, and its journal, with these values, lacks."""
    calls = await budgets.open_calls(ref.type, _call_context(ref, work), _tags_in(values))
    return calls.keys() - {settled.call for settled in settlements_in(values)}


async def are_reserved(budgets: Budgets, ref: ActorRef, work: Work) -> bool:
    """Whether an account holds each call of an attempt before it is made."""
    return await budgets.cover_all(ref.type, _call_context(ref, work))


def _call_context(ref: ActorRef, work: Work) -> CallContext:
    task = work.task
    return CallContext(
        budget_usd=task.budget_usd,
        budgets_above=task.budgets_above,
        budgets=task.budgets,
        task_id=task.task_id,
        thread_id=task.thread_id,
        agent_id=ref.type,
        tenant_id=task.tenant_id,
        generation=task.generation,
        attempt=work.dispatch.attempt,
    )


def settlements_in(values: Iterable[_Value]) -> list[Settlement]:
    """The settlements of the calls that the records of a journal are of."""
    return [
        Settlement.model_validate(call["settlement"])
        for value in values
        for call in value.get("calls", ())
        if "settlement" in call
    ]


def _tags_in(values: Sequence[_Value]) -> tuple[str, ...]:
    """The tags that the calls in the records of a journal may have had."""
    tags = {tag for settled in settlements_in(values) for tag in settled.tags}
    for value in values:
        if value.get("kind") == "context" and isinstance(value.get("result"), dict):
            tags.update(value["result"].get("tags", ()))
    return tuple(sorted(tags))

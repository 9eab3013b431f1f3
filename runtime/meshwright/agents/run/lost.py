"""Calls of models that a crash cut off, and that changed code does not make again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshwright.agents.run.calls import ModelCalls, counted_fields
from meshwright.agents.run.earlier import has_open_calls
from meshwright.agents.run.state import RunState
from meshwright.core.ids import new_id
from meshwright.engine.work.protocol import TOOL
from meshwright.engine.work.records import ProgressEvent
from meshwright.models.port import CHARGE, Call


async def add_lost_calls(state: RunState, calls: ModelCalls) -> None:
    """Record the calls of earlier claims that were cut off, where the journal cannot be followed.

    Each counts as the last call of the run did cost. A call for which a budget has reserved money is not
    among them: its account books it.
    """
    values, budgets = state.journal.earlier, state.services.budgets
    count = state.journal.cut_calls.lost(was_in_call=ends_in_call(values, state.tools))
    if count and budgets is not None and await has_open_calls(budgets, state.ref, state.work, values):
        return
    lost_calls = [_lost_call(state) for _ in range(count)]
    for call in lost_calls:
        calls.usage.add(call)
    if lost_calls:
        events = [ProgressEvent.of(call.payload(), call.call_id) for call in lost_calls]
        state.journal.cut_calls.record_lost([counted_fields(call) for call in lost_calls], events)


def ends_in_call(values: Sequence[Mapping[str, Any]], tools: Iterable[str]) -> bool:
    """Whether the process that left these records may have ended in a call of a model.

    Not if it had had no reply, or may have been in a tool: in one that journals its intent, or in one that
    the last reply asked for. Tools that are neither `tools` of the run nor steps of it are not recorded.
    """
    steps = [value for value in values if "kind" in value]
    ended_paths = {step["path"] for step in steps if "result" in step}
    last = max((i for i, step in enumerate(steps) if _is_reply(step)), default=None)
    if last is None or any("intent" in step and step["path"] not in ended_paths for step in steps):
        return False
    names = {*tools, *map(_tool_of, steps)}
    requests = Counter(call["name"] for call in steps[last]["result"].get("tool_calls", ()))
    results = Counter(_tool_of(step) for step in steps[last:] if "result" in step)
    return not any(name in names and number > results[name] for name, number in requests.items())


def _is_reply(step: Mapping[str, Any]) -> bool:
    return step["kind"] == "model" and isinstance(step.get("result"), dict)


def _tool_of(step: Mapping[str, Any]) -> str:
    return str(step["kind"]).removeprefix(TOOL)


def _lost_call(state: RunState) -> Call:
    recorded = [call for value in state.journal.earlier for call in value.get("calls", ())]
    last = next((call for call in reversed(recorded) if not call["model"].startswith(CHARGE)), {})
    cost = last.get("cost_usd")
    return Call(
        call_id=new_id(),
        model=last.get("model", ""),
        user=state.agent.agent_id,
        thread_id=state.task.thread_id,
        tenant_id=state.task.tenant_id,
        cost_usd=cost,
        cost_source="unknown" if cost is None else "estimated",
        outcome="cut",
        attempt=state.work.dispatch.attempt,
    )

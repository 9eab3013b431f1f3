"""Calls of models that a crash cut off, and that no run makes again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any

from meshwright.agents.run.calls import counted_fields
from meshwright.agents.run.earlier_changes import are_reserved, open_calls
from meshwright.core.ids import derived_id
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work import Journal, Work
from meshwright.engine.work.protocol import TOOL
from meshwright.engine.work.records import ProgressEvent
from meshwright.models.port import CHARGE, Call
from meshwright.money.budgets import Budgets
from meshwright.money.costs import UsualCall

UsualCallOf = Callable[[str], Awaitable[UsualCall | None]]
"""Reads the usual call of an agent from the ledger."""


async def add_lost_calls(
    journal: Journal,
    ref: ActorRef,
    work: Work,
    tools: Collection[str] | None,
    *,
    budgets: Budgets | None,
    usual_call: UsualCallOf | None,
    settled: Collection[str] = (),
    is_over: bool = False,
) -> list[Call]:
    """Record the calls of earlier claims that were cut off, and that this claim does not make again.

    Each counts as the last call of the run did cost, before that as such calls of the agent do as a rule.
    Calls for which budgets have reserved money are not among them, as their accounts book those, but for the
    `settled` ones of this run. If an account reserves for every call, one without was not made. `is_over`
    says that no claim runs the attempt. Returns the calls; they are durable once the journal is. Raises
    HostError.
    """
    values = journal.earlier
    usual = _last_call(values)
    is_noted = usual is not None and _ended_stalls(work, is_over=is_over) > 1
    if usual is None and usual_call is not None:
        usual = await usual_call(ref.type)
    was_in_call = not is_noted and ends_in_call(values, tools, has_called=usual is not None)
    count = journal.cut_calls.lost(was_in_call=was_in_call)
    if count and budgets is not None:
        reserved = await open_calls(budgets, ref, work, values)
        count -= len(reserved.difference(settled))
        if await are_reserved(budgets, ref, work):
            count = min(count, len(reserved.intersection(settled)))
    lost_calls = [_lost_call(ref, work, usual, number) for number in range(count)]
    if lost_calls:
        events = [ProgressEvent.from_payload(call.payload(), call.call_id) for call in lost_calls]
        journal.cut_calls.record_lost([counted_fields(call) for call in lost_calls], events)
    return lost_calls


async def add_given_up_calls(
    journal: Journal, ref: ActorRef, work: Work, budgets: Budgets | None, usual_call: UsualCallOf | None
) -> list[Call]:
    """Record the calls that were read on, given up by their callers, as the claim before this was cut off.

    They count as `add_lost_calls` counts them. Returns the calls. Raises HostError.
    """
    paths = journal.cut_calls.given_up()
    if not paths:
        return []
    if budgets is not None:
        paths = paths[len(await open_calls(budgets, ref, work, journal.earlier)) :]
    usual = _last_call(journal.earlier)
    if usual is None and usual_call is not None:
        usual = await usual_call(ref.type)
    calls = [_lost_call(ref, work, usual, path) for path in paths]
    for path, call in zip(paths, calls, strict=True):
        event = ProgressEvent.from_payload(call.payload(), call.call_id)
        journal.cut_calls.record_given_up(path, counted_fields(call), event)
    return calls


def _ended_stalls(work: Work, *, is_over: bool) -> int:
    """The claims in a row that ended without a finished step.

    From the second on, each followed one that was cut off, and noted a call of a model before it made it.
    """
    return work.stalled_claims if is_over else work.stalled_claims - 1  # a claim that runs counts itself


def ends_in_call(
    values: Sequence[Mapping[str, Any]], tools: Collection[str] | None, *, has_called: bool = True
) -> bool:
    """Whether the process that left these records may have ended in a call of a model.

    Not if it may have been in a tool: in one that journals its intent, or in one that the last reply asked
    for. Tools that are neither `tools` of the run nor steps of it are not recorded; None: all may be.
    Before the first reply of a run it may if its agent `has_called` a model in other runs.
    """
    steps = [value for value in values if "kind" in value]
    ended_paths = {step["path"] for step in steps if "result" in step}
    if any("intent" in step and step["path"] not in ended_paths for step in steps):
        return False
    last = max((i for i, step in enumerate(steps) if _is_reply(step)), default=None)
    if last is None:
        return has_called
    names = None if tools is None else {*tools, *map(_tool_name, steps)}
    requests = Counter(call["name"] for call in steps[last]["result"].get("tool_calls", ()))
    results = Counter(_tool_name(step) for step in steps[last:] if "result" in step)
    return not any(
        number > results[name] for name, number in requests.items() if names is None or name in names
    )


def _is_reply(step: Mapping[str, Any]) -> bool:
    return step["kind"] == "model" and isinstance(step.get("result"), dict)


def _tool_name(step: Mapping[str, Any]) -> str:
    return str(step["kind"]).removeprefix(TOOL)


def _last_call(values: Sequence[Mapping[str, Any]]) -> UsualCall | None:
    """The last call of the run that is recorded."""
    calls = [call for value in values for call in value.get("calls", ())]
    own_calls = [call for call in calls if not call["model"].startswith(CHARGE)]
    if not own_calls:
        return None
    cost = own_calls[-1].get("cost_usd")
    return UsualCall(own_calls[-1]["model"], None if cost is None else Decimal(cost))


def _lost_call(ref: ActorRef, work: Work, usual: UsualCall | None, name: int | str) -> Call:
    cost = None if usual is None else usual.cost_usd
    return Call(
        call_id=derived_id(str(ref), work.steps, f"lost:{name}"),  # recorded again it is the same
        model="" if usual is None else usual.model,
        user=ref.type,
        thread_id=work.task.thread_id,
        tenant_id=work.task.tenant_id,
        cost_usd=cost,
        cost_source="unknown" if cost is None else "estimated",
        outcome="cut",
        attempt=work.dispatch.attempt,
    )

"""The links of the chain that every call of a tool passes, from the one that asks for it to the tool.

Each says what it adds; `agents.tools.chain` has their order, and lets components add links of their own.
"""

from __future__ import annotations

import time
from collections import UserDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from meshwright.agents.run.approvals import CallApproval
from meshwright.agents.run.calls import ModelCalls
from meshwright.agents.run.checks import CheckedTool, check_call
from meshwright.agents.run.files import DELEGATE_TOOL, check_size, fitting
from meshwright.agents.run.masks import redacted_arguments
from meshwright.agents.run.state import RunState
from meshwright.agents.run.tool_calls import changed_call, is_journaled, render_content, tool_events
from meshwright.agents.tools.chain import (
    TOOL_POSITIONS,
    ToolCallWrapper,
    ToolChain,
    ToolInvocation,
    ToolLink,
    ToolWrapper,
    chained,
)
from meshwright.agents.tools.limited_work import plain_result, within_limits
from meshwright.agents.tools.tool import Tool, ToolContext
from meshwright.core.checks import CheckResult, StepCheck
from meshwright.core.encoding import plain
from meshwright.core.errors import InvalidInput, MemoryUnavailable, MeshError, NotFound, ToolFailed
from meshwright.core.files import File
from meshwright.core.tracing import TENANT, GenAI
from meshwright.engine.work.doubts import checked_event
from meshwright.engine.work.paths import OpenStep
from meshwright.engine.work.protocol import TOOL
from meshwright.engine.work.records import ProgressEvent
from meshwright.models.port import ToolCall

_MAX_CHANGE_CHARS = 500  # of the arguments of a call that changes something
_CHECK_NOTES = {"did_not_happen": "Its check says that it did not happen", "unknown": "Its check cannot tell"}


@dataclass(eq=False, slots=True)
class RunInvocation(ToolInvocation):
    """A call that a run makes, with what its links learn of it."""

    state: RunState
    calls: ModelCalls
    outside: bool
    """Whether the model had read text from outside when it asked for the call."""
    call_id: str = ""
    approval: CallApproval = field(init=False)
    step: OpenStep = field(init=False)
    """The step of the journal that the call is executed in."""
    whole_arguments: str = field(init=False)
    """The arguments with what their masks stand for: for the tool alone."""
    has_begun: bool = False
    """Whether the call may have reached the tool: it was approved."""
    error: MeshError | None = None
    """The error that it ended with."""
    checked: ProgressEvent | None = None
    """The event of its check, where the call got no reply."""


class _ApprovalLink(ToolLink[RunInvocation]):
    """Has the call decided, by a rule or a person, who may change its arguments."""

    async def call(self, call: RunInvocation) -> Any:
        approval = CallApproval(call.state, call.tool.name, call.tool, call.context, outside=call.outside)
        call.approval = approval
        await approval.decide(call.arguments)
        call.arguments = approval.arguments
        return await self.inner.call(call)


class _JournalLink(ToolLink[RunInvocation]):
    """Executes the call in a step of the journal, once; the run learns from the result that is there.

    A call that was cut off has the result that the tool's check knows. A call of a tool that is not
    idempotent, and whose check cannot tell, has what a person says came of it.
    """

    async def call(self, call: RunInvocation) -> Any:
        state, tool, started = call.state, call.tool, time.perf_counter()
        request, kind, journal = {"arguments": call.arguments}, f"{TOOL}{tool.name}", state.journal
        # First: a recorded call would miss its turn while a new one waits for all that are recorded.
        journal.join(kind, request, {kind: request})
        async with (
            state.exclusion.turn(journal.inside, exclusive=tool.exclusive),
            journal.open_step(kind, request, repeatable=tool.idempotent, check=_step_check(call)) as step,
        ):
            if not step.is_replayed:
                call.step = step
                result = from_json(to_json(await self.inner.call(call), fallback=plain))
                events = tool_events(tool.name, call.arguments, result, None if step.has_waited else started)
                more = tool.events(result["value"]) if result["error"] is None else ()
                checked = () if call.checked is None else (call.checked,)
                step.finish(result, [*checked, *events, *map(ProgressEvent.from_payload, more)])
        result = step.result
        # Text is of a person: the call was cut off, and is not run again.
        call.calls.changed |= "changed" in result if is_journaled(result) else tool.may_change
        state.outputs.learn(result)
        state.knowledge.learn(tool, call.arguments, result)
        state.masks.learn(tool, result, lambda: _read_again(call))
        return result


def _step_check(call: RunInvocation) -> StepCheck | None:
    """Asks the tool whether the call has happened; None if it has no check, or the call was not allowed."""
    decision = call.approval.decision
    if not call.tool.has_check or not (decision is None or decision.approve):
        return None

    def finish(result: dict[str, Any]) -> None:
        result |= changed_call(call.arguments, call.approval.changed_by) | _change_fields(call)
        step = call.state.journal.inside
        _keep(call, result, 0 if step is None else step.number)

    async def check() -> CheckResult:
        probe = RunInvocation(
            CheckedTool(call.tool), call.arguments, call.context, call.state, call.calls, call.outside
        )
        return await check_call(call, probe, finish)

    return check


def recorded_check(
    context: ToolContext, state: RunState, calls: ModelCalls, kind: str, request: Any
) -> StepCheck | None:
    """The check of a call that is in the journal; None if its tool is not there, or has none."""
    tool = state.tools.get(kind.removeprefix(TOOL)) if kind.startswith(TOOL) else None
    if tool is None or not tool.has_check:
        return None
    probe = RunInvocation(
        CheckedTool(tool), request["arguments"], context, state, calls, state.journal.outside
    )
    return partial(check_call, probe, probe, lambda values: None)


def _keep(call: RunInvocation, result: dict[str, Any], step: int) -> None:
    """Note in a result which masks it has, and keep it whole where it is long."""
    state, tool = call.state, call.tool
    state.masks.note(tool, result)
    output = state.outputs.tool
    is_offered = state.tools.get(output.name, output) is output
    state.outputs.keep(tool, result, step, is_offered=is_offered)


async def _read_again(call: RunInvocation) -> Any:
    return (await call.state.services.tool_chain.cleaning.call(call))["value"]


class _TimeLink(ToolLink[RunInvocation]):
    """Counts the seconds of the call, which are not those of the agent's code."""

    async def call(self, call: RunInvocation) -> dict[str, Any]:
        started = time.perf_counter()
        with call.state.time.apart():
            result = await self.inner.call(call)
        if not call.step.has_waited:
            result["seconds"] = round(time.perf_counter() - started, 3)
            call.calls.totals.add_tool(result["seconds"])
        return result


class _TraceLink(ToolLink[RunInvocation]):
    """Records a span of the call."""

    async def call(self, call: RunInvocation) -> dict[str, Any]:
        state, tool, tracing = call.state, call.tool, call.state.services.tracing
        attributes = {
            GenAI.OPERATION_NAME: GenAI.EXECUTE_TOOL,
            GenAI.TOOL_NAME: tool.name,
            GenAI.TOOL_TYPE: "function",
            GenAI.TOOL_CALL_ID: call.call_id,
            GenAI.AGENT_NAME: state.agent.agent_id,
            GenAI.CONVERSATION_ID: state.task.thread_id,
            TENANT: state.task.tenant_id,
        }
        if tracing.content:
            attributes[GenAI.TOOL_DESCRIPTION] = tool.spec.description
            attributes[GenAI.TOOL_CALL_ARGUMENTS] = call.arguments
        name, parent = f"execute_tool {tool.name}", state.span.traceparent
        with tracing.span(name, parent=parent, attributes=attributes) as span:
            result = await self.inner.call(call)
            if call.error is not None:
                span.fail(call.error)
            if tracing.content:
                span.set({GenAI.TOOL_CALL_RESULT: render_content(result)})
        return result


class _TaintLink(ToolLink[RunInvocation]):
    """Notices text from outside in the tree of the task, which another agent may have written meanwhile."""

    async def call(self, call: RunInvocation) -> dict[str, Any]:
        result = await self.inner.call(call)
        task, trees = call.state.task, call.state.services.trees
        if trees is not None and trees.have_outside(task.tenant_id, task.family_id):
            call.state.journal.read_outside()
        return result


class _ResultLink(ToolLink[RunInvocation]):
    """Makes a result of the journal of whatever comes of the call.

    It has the error, says what the call may have changed, for those who take over, and holds a long value
    whole, as far as a record can.
    """

    async def call(self, call: RunInvocation) -> dict[str, Any]:
        tool = call.tool
        result: dict[str, Any] = {"value": None, "error": None}
        result |= changed_call(call.arguments, call.approval.changed_by)
        try:
            values = await self.inner.call(call)
            result |= _change_fields(call) | values
        except (ToolFailed, InvalidInput, MemoryUnavailable) as error:
            checked = await _check_without_reply(call, error)
            if checked is not None and checked.outcome == "happened":
                return checked.result
            call.error = error
            result |= _failure_fields(call, error)
            if checked is not None:
                result["error"] += f". {_CHECK_NOTES[checked.outcome]}: {checked.evidence}"
        except BaseException:  # in the middle of the call: what raises may have changed something before
            call.step.changed = call.has_begun and tool.may_change
            call.calls.changed |= call.step.changed
            raise
        _keep(call, result, call.step.number)
        return result


async def _check_without_reply(call: RunInvocation, error: MeshError) -> CheckResult | None:
    """Whether a call has happened that got no reply; None where it failed otherwise, or has no check."""
    if not (call.has_begun and isinstance(error, ToolFailed) and error.is_in_doubt):
        return None
    if (check := _step_check(call)) is None:
        return None
    started = time.perf_counter()
    checked = await check()
    call.checked = checked_event(call.tool.name, checked, started)
    return checked


def _change_fields(call: RunInvocation) -> dict[str, Any]:
    """The fields of a result that say, for who takes over, what a call may change."""
    if call.tool.may_change:
        return {"changed": redacted_arguments(call.arguments, _MAX_CHANGE_CHARS)}
    return {"edited": True} if call.tool.contained else {}


def _failure_fields(call: RunInvocation, error: MeshError) -> dict[str, Any]:
    """The fields of a result that say why a call failed.

    One whose process ended in the middle before may have taken effect already.
    """
    change, decision = _change_fields(call) if call.has_begun else {}, call.approval.decision
    may_have_run = (
        call.step.was_begun and not call.step.is_ruled_out and (decision is None or decision.approve)
    )
    if call.tool.may_change and may_have_run:
        note = f"{call.tool.name} was interrupted before, and may have taken effect then"
        return {"error": f"{error}. {note}", **_change_fields(call), "uncertain": True}
    if isinstance(error, InvalidInput):  # nothing has run
        change.pop("changed", None)
    return {"error": str(error), **change}


class _CheckLink(ToolLink[RunInvocation]):
    """Refuses the call where its approval does not hold, at the time at which it is executed."""

    async def call(self, call: RunInvocation) -> dict[str, Any]:
        try:
            await call.approval.check(call.tool, call.arguments)
        except MeshError as error:
            call.state.masks.clean_error(error)
            raise
        call.has_begun = True
        if call.tool.origin == "outside":  # an error of it has words from there too
            call.state.journal.read_outside()
        return await self.inner.call(call)


class MaskLink(ToolLink[RunInvocation]):
    """Gives the tool what the masks in its arguments stand for; takes secrets out of its value or error."""

    async def call(self, call: RunInvocation) -> dict[str, Any]:
        """The result without secrets."""
        masks = call.state.masks
        call.whole_arguments = await masks.put_back(call.tool, call.arguments)
        try:
            result = await self.inner.call(call)
        except MeshError as error:
            masks.clean_error(error, call.tool)
            raise
        result["value"] = masks.clean(call.tool, result["value"])
        return result


class _FilesLink(ToolLink[RunInvocation]):
    """Gives the result files that a step can hold; those of an agent that was asked are the outcome's too."""

    async def call(self, call: RunInvocation) -> dict[str, Any]:
        result = await self.inner.call(call)
        if "files" in result:
            max_bytes = call.calls.max_record_bytes
            files = fitting([(await _whole(call, file), file) for file in result["files"]], max_bytes)
            check_size(call.tool.name, files, max_bytes)
            if call.tool.name == DELEGATE_TOOL and (step := call.state.journal.inside) is not None:
                call.calls.attached.add(step.key.path, files)
            result["files"] = files
        return result


async def _whole(call: RunInvocation, file: File) -> File:
    try:
        return await call.context.read_file(file)
    except NotFound:  # deleted since: what is left is what is said of it
        return file


class LimitLink(ToolLink[RunInvocation]):
    """Calls the tool, within the limits of time and size: the innermost link."""

    def __init__(self) -> None:
        """It has no link within."""

    async def call(self, call: RunInvocation) -> dict[str, Any]:
        """The value of the tool, as plain data."""
        tool, context = call.tool, call.context
        seconds, read_result = (
            call.state.services.tool_timeout_seconds,
            partial(plain_result, max_chars=tool.max_chars),
        )
        work = tool.call(call.whole_arguments, context)
        return await within_limits(tool, work, context.task, read_result, seconds)


class ToolResult(NamedTuple):
    """A result with files, each described in its value."""

    value: Any
    files: tuple[File, ...]


class _UnrecordedTool(ToolWrapper):
    """A tool that code calls by itself: within its limits, without secrets, and with no step of its own."""

    def __init__(self, inner: Tool, state: RunState, calls: ModelCalls) -> None:
        super().__init__(inner)
        self._state, self._calls = state, calls

    async def call(self, arguments: str, context: ToolContext) -> Any:
        state = self._state
        call = RunInvocation(self.inner, arguments, context, state, self._calls, state.journal.outside)
        result = await state.services.tool_chain.cleaning.call(call)
        return ToolResult(result["value"], tuple(result["files"])) if "files" in result else result["value"]


class RunTools(UserDict[str, Tool]):
    """The tools of a run by name, as its code sees them; see `Run.call` for calls that are journaled."""

    def __init__(self, state: RunState, calls: ModelCalls) -> None:
        self.data = state.tools
        self._state, self._calls = state, calls

    def __getitem__(self, key: str) -> Tool:
        return _UnrecordedTool(self.data[key], self._state, self._calls)


async def call_tool(
    context: ToolContext, state: RunState, calls: ModelCalls, call: ToolCall, *, outside: bool
) -> Any:
    """The result of a call, as the journal has it; the model gets a fault of the call."""
    if (tool := state.tools.get(call.name)) is None:
        return await _refuse(context, state, call, outside=outside)
    invocation = RunInvocation(tool, call.arguments, context, state, calls, outside, call.id)
    return await state.services.tool_chain.first.call(invocation)


async def _refuse(context: ToolContext, state: RunState, call: ToolCall, *, outside: bool) -> Any:
    approval = CallApproval(state, call.name, None, context, outside=outside)
    await approval.decide(call.arguments)  # the tool may have been there when the run began
    names = ", ".join(state.tools) or "none"
    result = {"value": None, "error": f"there is no tool {call.name!r}; there are {names}"}
    request = {"arguments": approval.arguments}
    async with state.journal.open_step(f"{TOOL}{call.name}", request, costly=False) as step:
        if not step.is_replayed:
            step.finish(result, tool_events(call.name, approval.arguments, result, None))
    return step.result


def tool_chain(wrappers: Iterable[ToolCallWrapper]) -> ToolChain:
    """Make the one chain for every call of a tool: our links, and the wrappers of components around them.

    Raises ConfigError for a position that there is not.
    """
    ours = (
        ToolCallWrapper("approve", _ApprovalLink),
        ToolCallWrapper("journal", _JournalLink),
        ToolCallWrapper("time", _TimeLink),
        ToolCallWrapper("trace", _TraceLink),
        ToolCallWrapper("taint", _TaintLink),
        ToolCallWrapper("result", _ResultLink),
        ToolCallWrapper("check", _CheckLink),
        ToolCallWrapper("mask", MaskLink),
        ToolCallWrapper("files", _FilesLink),
    )
    links, inside = [*ours, *wrappers], TOOL_POSITIONS[TOOL_POSITIONS.index("mask") :]
    cleaning = chained(LimitLink(), [link for link in links if link.position in inside])
    return ToolChain(chained(cleaning, [link for link in links if link.position not in inside]), cleaning)

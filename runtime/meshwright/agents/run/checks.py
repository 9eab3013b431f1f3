"""Checks of interrupted steps: run within the limits of tools, and without secrets in what they say."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import from_json, to_json

from meshwright.agents.run.author import plain_data
from meshwright.agents.run.state import RunState
from meshwright.agents.tools.chain import ToolWrapper
from meshwright.agents.tools.limited_work import as_check_result, cut, within_limits
from meshwright.agents.tools.tool import Tool, ToolContext
from meshwright.core.checks import CheckResult
from meshwright.core.encoding import plain
from meshwright.core.errors import AgentError, HostError, MeshError
from meshwright.core.redaction import redact

if TYPE_CHECKING:
    from meshwright.agents.run.tool_chain import RunInvocation

_MAX_EVIDENCE_CHARS = 4_000
StepCheckFunction = Callable[[str], Awaitable[CheckResult]]
"""The check of a step of the author's: it gets the id of the step."""


class CheckedTool(ToolWrapper):
    """The check of a tool, called in its place: with its masks and limits, but for an endless time."""

    def __init__(self, inner: Tool) -> None:
        super().__init__(inner)
        self.name, self.idempotent = f"check of {inner.name}", True
        self.timeout = None if inner.timeout == math.inf else inner.timeout
        self.checked = CheckResult.unknown("")

    async def call(self, arguments: str, context: ToolContext) -> Any:
        """Ask the check; returns the result of the call, where it happened."""
        self.checked = await self.inner.check(arguments, context)
        return self.checked.result


async def check_call(
    call: RunInvocation, probe: RunInvocation, finish: Callable[[dict[str, Any]], None]
) -> CheckResult:
    """Whether a call has happened; its result is then as the journal has those of calls.

    `probe` is the same call of its `CheckedTool`; `finish` adds the notes that results have.
    """
    state, tool = call.state, probe.tool
    assert isinstance(tool, CheckedTool)
    if tool.origin == "outside":  # an error of it has words from there too
        state.journal.read_outside()
    try:
        with state.time.apart():
            values = await state.services.tool_chain.cleaning.call(probe)
    except HostError:  # the work is no longer this worker's
        raise
    except MeshError as error:
        return CheckResult.unknown(_cut(f"The check failed: {error}"))
    evidence = _cut(str(state.masks.clean(tool, tool.checked.evidence)))
    if tool.checked.outcome != "happened":
        return CheckResult(outcome=tool.checked.outcome, evidence=evidence)
    finish(values)
    return CheckResult.happened(from_json(to_json(values, fallback=plain)), evidence)


class _Bounds(NamedTuple):
    """The check of a step, for its limits: the time that tools have."""

    name: str
    timeout: float | None = None
    idempotent: bool = True


async def check_step(
    state: RunState, name: str, step_id: Callable[[], str], check: StepCheckFunction
) -> CheckResult:
    """Whether a step of the author's has happened."""

    async def ask() -> CheckResult:
        pending: Any = check(step_id())
        checked = as_check_result(await pending if inspect.isawaitable(pending) else pending, check)
        result = plain_data(checked.result, f"the check of step {name!r} returns")
        return CheckResult(outcome=checked.outcome, result=result, evidence=str(checked.evidence))

    bounds, seconds = _Bounds(f"check of {name}"), state.services.tool_timeout_seconds
    try:
        with state.time.apart():
            checked = await within_limits(bounds, ask(), state.task, lambda value: value, seconds)
    except HostError:  # the work is no longer this worker's
        raise
    except MeshError as error:
        return CheckResult.unknown(_cut(redact(f"The check failed: {error}")))
    evidence = _cut(redact(checked.evidence))
    result = checked.result if checked.outcome == "happened" else None
    return CheckResult(outcome=checked.outcome, result=result, evidence=evidence)


def refuse_check(name: str, check: Any) -> None:
    """Raise AgentError for what cannot be the check of a step: no async function of one parameter."""
    remedy = "Write `async def was_done(step_id: str) -> CheckResult`"
    if inspect.iscoroutine(check):
        check.close()
    if not callable(check):
        raise AgentError(f"step {name!r} is given {check!r} as its check, not a function", remedy=remedy)
    try:
        inspect.signature(check).bind("")
    except TypeError as error:
        problem = f"the check of step {name!r} does not take the step's id: {error}"
        raise AgentError(problem, remedy=remedy) from error
    is_plain = inspect.isroutine(check) and not inspect.iscoroutinefunction(inspect.unwrap(check))
    if is_plain and getattr(check, "__name__", "") != "<lambda>" and not hasattr(check, "__wrapped__"):
        raise AgentError(f"the check of step {name!r} is not async", remedy=remedy)


def _cut(evidence: str) -> str:
    return cut(evidence, _MAX_EVIDENCE_CHARS)

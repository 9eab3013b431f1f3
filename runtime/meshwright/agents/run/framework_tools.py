"""Tools that an agent of another framework brings: their calls are steps, events and approvals of a run.

The framework executes them, so they have no limits, masks or sandbox of the mesh.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from meshwright.agents.run.approvals import CallApproval
from meshwright.agents.run.masks import redacted_arguments
from meshwright.agents.run.run import Run
from meshwright.agents.run.tool_calls import is_journaled, tool_events
from meshwright.agents.tools.tool import Tool, ToolContext
from meshwright.core.errors import ToolFailed
from meshwright.engine.work.protocol import TOOL
from meshwright.engine.work.records import ProgressEvent

_MAX_CHANGE_CHARS = 500  # of the arguments of a call that changes something


class FrameworkTool(Tool):
    """A tool of a framework's agent, as those see it who approve its calls."""

    needs_approval = True

    def __init__(self, name: str, description: str, parameters: dict[str, Any]) -> None:
        self.name, self.description, self.parameters = name, description, parameters

    async def call(self, arguments: str, context: ToolContext) -> Any:
        """Refuse the call, which only the framework can make."""
        raise ToolFailed(f"{self.name} is a tool of a framework, which calls it itself")


async def approve_framework_call(run: Run, tool: FrameworkTool, arguments: str) -> str:
    """Have a call decided by a rule or a person, and wait through restarts; returns its arguments.

    Those may have been changed. Raises ToolFailed for a call that may not run, InvalidInput for arguments
    that do not fit: without a question, nobody could be shown what runs.
    """
    state: Any = run._state
    context: Any = run
    tool.validated(arguments)
    approval = CallApproval(state, tool.name, tool, context, outside=state.journal.outside)
    await approval.decide(arguments)
    if (decision := approval.decision) is not None and not decision.approve:
        raise ToolFailed(decision.reason or f"A person denied {tool.name}.")
    await approval.check(tool, approval.arguments)
    return approval.arguments


async def run_framework_call(
    run: Run, name: str, arguments: str, call: Callable[[], Awaitable[Any]], *, repeatable: bool
) -> Any:
    """Make a call once, as a step of its tool with the event; returns plain JSON data.

    One that was cut off and is not `repeatable` has the result that a person says came of it.
    """
    started = time.perf_counter()

    async def make() -> dict[str, Any]:
        with run._state.time.measure_step(name):
            value = await call()
        seconds = round(time.perf_counter() - started, 3)
        changed = {} if repeatable else {"changed": redacted_arguments(arguments, _MAX_CHANGE_CHARS)}
        return {"value": value, "error": None, "seconds": seconds, **changed}

    def tell(result: dict[str, Any]) -> list[ProgressEvent]:
        return tool_events(name, arguments, result, started)

    request = {"arguments": arguments}
    result = await run._state.journal.step(f"{TOOL}{name}", request, make, repeatable=repeatable, tell=tell)
    return result["value"] if is_journaled(result) else result

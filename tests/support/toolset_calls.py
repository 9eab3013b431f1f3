"""Calls of the tools of a toolset, as a model makes them, without a mesh."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from meshwright.agents.run.masks import Masks
from meshwright.agents.run.tool_chain import LimitLink, MaskLink
from meshwright.agents.tools.limited_work import plain_effect, within_limits
from meshwright.agents.tools.tool import Unchanged
from meshwright.core.checks import CheckResult
from meshwright.core.errors import MeshError
from meshwright.core.messages import Task
from meshwright.tools import Tool, ToolContext, Toolset, ToolSettings, ToolWrapper


class LimitedTool(ToolWrapper):
    """A tool whose calls pass the innermost links of the chain: its time and size, and secrets."""

    def __init__(self, inner: Tool, timeout_seconds: float) -> None:
        super().__init__(inner)
        self._seconds, self._masks = timeout_seconds, Masks(())

    async def call(self, arguments: str, context: ToolContext) -> Any:
        services = SimpleNamespace(tool_timeout_seconds=self._seconds)
        state = SimpleNamespace(masks=self._masks, services=services)
        call: Any = SimpleNamespace(tool=self.inner, arguments=arguments, context=context, state=state)
        return (await MaskLink(LimitLink()).call(call))["value"]

    async def preview(self, arguments: str, context: ToolContext) -> Any:
        work = self.inner.preview(arguments, context)
        try:
            return await within_limits(self, work, context.task, plain_effect, self._seconds)
        except MeshError as error:
            self._masks.clean_error(error, self)
            raise


class Context:
    """A run, as far as these tools see it."""

    agent_id = "watcher"

    def __init__(self, task_id: str = "t1", step_id: str = "t1/1") -> None:
        self.step_id = step_id
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        self.task = Task(
            task_id=task_id, capability="c", thread_id="t1", deadline_at=moment, created_at=moment
        )


class Calls:
    """A started toolset, with its tools by name.

    A preview says `Unchanged` just where the call says that it has changed nothing. The check of a tool finds
    a change that was just made.
    """

    def __init__(self, toolset: Toolset, tools: Mapping[str, Tool]) -> None:
        self.toolset = toolset
        self.tools = tools

    async def __call__(self, name: str, /, **arguments: Any) -> Any:
        context: Any = Context(step_id=arguments.pop("step_id", "t1/1"))
        tool, text, effect = LimitedTool(self.tools[name], 60), json.dumps(arguments), None
        with suppress(MeshError):  # the call raises it too
            effect = await tool.preview(text, context) if tool.has_preview else None
        result = await tool.call(text, context)
        if effect is not None and isinstance(result, dict):
            has_changed = result.get("changed", result.get("started", True))
            assert isinstance(effect, Unchanged) is not has_changed, (name, effect, result)
        if tool.has_check:
            checked = await self.check(name, step_id=context.step_id, **arguments)
            assert checked.outcome == "happened" and checked.evidence, (name, checked)
        return result

    async def check(self, name: str, /, **arguments: Any) -> CheckResult:
        """The result of the check of a tool, without a call."""
        context: Any = Context(step_id=arguments.pop("step_id", "t1/1"))
        return await LimitedTool(self.tools[name], 60).check(json.dumps(arguments), context)


@asynccontextmanager
async def calling(toolset: type[Toolset], **table: Any) -> AsyncIterator[Calls]:
    """Start a toolset with the settings of its table."""
    made = toolset(ToolSettings(tables={toolset.name: table}))
    await made.start()
    try:
        yield Calls(made, {tool.name: tool for tool in await made.tools()})
    finally:
        await made.close()

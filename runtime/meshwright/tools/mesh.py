"""Tools that reach into the mesh itself: other agents, and the memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from meshwright.messages import MemoryScope
from meshwright.tools.tool import FunctionTool, Tool, ToolContext, tool

Text = Annotated[str, Field(min_length=1)]


def delegate_tool(agent_ids: Sequence[str]) -> Tool:
    """The tool by which an agent gives work to the named other agents; its model can name no other.

    It may run again after a crash: the mesh knows a delegated task by the step that delegated it.
    """

    @tool(idempotent=True, timeout=math.inf)
    async def delegate(agent_id: str, text: Text, context: ToolContext) -> str:
        """Give a task to another agent, wait for it, and get its answer.

        Args:
            agent_id: who shall do it
            text: the whole task in words; the other agent knows nothing of this conversation
        """
        return await context.delegate(agent_id, text)

    one_of: Any = Literal
    delegate.__annotations__["agent_id"] = one_of[tuple(agent_ids)]
    return FunctionTool(delegate)


def remember_tool() -> Tool:
    """The tool by which an agent keeps what later runs should know.

    It may run again after a crash: the mesh knows a memory by the step that stored it.
    """

    @tool(idempotent=True)
    async def remember(text: Text, context: ToolContext, scope: MemoryScope = "agent") -> str:
        """Remember something for later: a decision, a preference, a fact that was hard to find.

        Args:
            text: what to remember, in one or two sentences that stand on their own
            scope: who will recall it: this task, this agent, this project, or everybody (global)
        """
        return await context.remember(text, scope)

    return FunctionTool(remember)

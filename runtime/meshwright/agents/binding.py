"""The agents of a worker: each with its tools, and how many tasks it works on at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshwright.agent import Agent
from meshwright.errors import ConfigError
from meshwright.run import Employed
from meshwright.tools.mesh import delegate_tool, remember_tool
from meshwright.tools.threads import Overrun, ToolThreads
from meshwright.tools.tool import Tool, tools_of
from meshwright.tools.toolset import ToolSettings


def bind_agents(
    classes: Sequence[type[Agent]],
    settings: ToolSettings,
    on_overrun: Callable[[Overrun], None] = lambda overrun: None,
) -> dict[str, Employed]:
    """Make each agent with its tools and their threads; `on_overrun` is called for threads that do not end.

    Raises ConfigError where two tools of one agent share a name.
    """
    return {cls.agent_id: _bind(cls(), settings, on_overrun) for cls in classes}


def _bind(agent: Agent, settings: ToolSettings, on_overrun: Callable[[Overrun], None]) -> Employed:
    toolsets = [toolset(settings) for toolset in agent.toolsets]
    tools = [tool for owner in (agent, *toolsets) for tool in tools_of(owner)]
    if agent.delegates_to:
        tools.append(delegate_tool(agent.delegates_to))
    if agent.remembers:
        tools.append(remember_tool())
    _check_names(agent, tools)
    size = agent.max_concurrency or settings.max_concurrency
    threads = ToolThreads(agent.agent_id, size, on_overrun)
    bound = {tool.name: tool.within(threads, settings.tool_timeout_seconds) for tool in tools}
    return Employed(agent, bound, toolsets, threads)


def _check_names(agent: Agent, tools: Sequence[Tool]) -> None:
    names = [tool.name for tool in tools]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"agent {agent.agent_id} has two tools named {twice[0]!r}",
            remedy='give one another name: @tool(name="...")',
            field="toolsets",
        )

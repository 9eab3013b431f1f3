"""The agents of a worker: each with its tools, and how many tasks it works on at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from meshwright.agent import Agent
from meshwright.errors import ConfigError
from meshwright.run import Employed
from meshwright.settings import Settings
from meshwright.settings.loading import FILE_NAME
from meshwright.stack.folder import LOCK_NAME
from meshwright.tools.mesh import delegate_tool, remember_tool
from meshwright.tools.threads import Overrun, ToolThreads
from meshwright.tools.tool import Tool, tools_of
from meshwright.tools.toolset import ToolSettings


def employ(
    classes: Sequence[type[Agent]],
    settings: ToolSettings,
    on_overrun: Callable[[Overrun], None] = lambda overrun: None,
) -> dict[str, Employed]:
    """Make each agent with its tools and their threads; `on_overrun` is called for threads that do not end.

    Raises ConfigError where two tools of one agent share a name.
    """
    return {cls.agent_id: _employ(cls(), settings, on_overrun) for cls in classes}


def _employ(agent: Agent, settings: ToolSettings, on_overrun: Callable[[Overrun], None]) -> Employed:
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


def tool_settings(settings: Settings, project: Path) -> ToolSettings:
    """What the agents' tools may touch. The mesh's own data and configuration are hidden from them."""
    data = project / settings.data_dir
    # A worker's folder lies in that of its stack, where the broker's and the store's secrets are.
    is_in_a_stack = settings.host == "dapr" and (data.parent / LOCK_NAME).exists()
    own = (data.parent if is_in_a_stack else data, Path(FILE_NAME), settings.litellm_config)
    return ToolSettings(
        workspace=project / settings.workspace,
        hidden=tuple(project / path for path in own),
        allow_private_addresses=settings.allow_private_addresses,
        tool_timeout_seconds=settings.tool_timeout_seconds,
        max_concurrency=settings.max_concurrency,
    )


def slots_of(agents: Mapping[str, Employed], default: int) -> Callable[[str], int]:
    """How many tasks each agent works on at once."""

    def slots(agent_id: str) -> int:
        own = agents[agent_id].agent.max_concurrency if agent_id in agents else None
        return default if own is None else own

    return slots

"""The agents of a worker, each with its tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from meshwright.agent import Agent
from meshwright.core.errors import ConfigError
from meshwright.core.plugins import TOOLSETS, did_you_mean, installed
from meshwright.tools.functions import delegate_tool, remember_tool, tools_of
from meshwright.tools.limited import LimitedTool
from meshwright.tools.threads import Overrun, ToolThreads
from meshwright.tools.tool import Tool
from meshwright.tools.toolset import Toolset, ToolSettings


class BoundAgent:
    """An agent with its tools, ready to work once it was started.

    `on_overrun` is called for threads of tools that do not end. Raises ConfigError where a tool cannot be
    described, or two share a name.
    """

    def __init__(
        self,
        agent: Agent,
        settings: ToolSettings,
        on_overrun: Callable[[Overrun], None] = lambda overrun: None,
    ) -> None:
        self.agent = agent
        self.tools: dict[str, Tool] = {}
        size = agent.max_concurrency or settings.max_concurrency
        self.threads = ToolThreads(agent.agent_id, size, on_overrun)
        self._timeout_seconds = settings.tool_timeout_seconds
        self._toolsets = [toolset(settings) for toolset in toolsets_of(type(agent))]
        for toolset in self._toolsets:
            toolset.threads = self.threads
        self._own = tools_of(agent, threads=self.threads)
        if agent.delegates_to:
            self._own.append(delegate_tool(agent.delegates_to))
        if agent.remembers:
            self._own.append(remember_tool())
        self._take(tool for toolset in self._toolsets for tool in tools_of(toolset))  # a slip shows at once

    async def start(self) -> None:
        """Start the toolsets, and ask them for their tools."""
        offered: list[Tool] = []
        for toolset in self._toolsets:
            await toolset.start()
            offered += await toolset.tools()
        self._take(offered)

    async def stop(self) -> None:
        """Give back what the tools hold."""
        self.threads.close()
        for toolset in self._toolsets:
            await toolset.close()

    def _take(self, offered: Iterable[Tool]) -> None:
        tools = [*self._own, *offered]
        _check_names(self.agent, tools)
        self.tools = {tool.name: LimitedTool(tool, self._timeout_seconds) for tool in tools}


def bind_agents(
    classes: Sequence[type[Agent]],
    settings: ToolSettings,
    on_overrun: Callable[[Overrun], None] = lambda overrun: None,
) -> dict[str, BoundAgent]:
    """Make each agent with its tools, by agent id. Raises ConfigError."""
    return {cls.agent_id: BoundAgent(cls(), settings, on_overrun) for cls in classes}


def toolsets_of(agent: type[Agent]) -> list[type[Toolset]]:
    """The toolsets of an agent, also those it names. Raises ConfigError for one that is not installed."""
    found = [toolset for toolset in agent.toolsets if not isinstance(toolset, str)]
    names = [toolset for toolset in agent.toolsets if isinstance(toolset, str)]
    plugins = {plugin.name: plugin for plugin in installed(TOOLSETS)} if names else {}
    for name in names:
        if name not in plugins:
            raise ConfigError(
                f"agent {agent.agent_id} has the toolset {name!r}, which no installed package brings",
                remedy=did_you_mean(name, plugins) or f"Install its package, or name a class of {name!r}",
                field="toolsets",
            )
        found.append(plugins[name].load())
    return found


def check_tables(tables: Iterable[str], agents: Iterable[type[Agent]]) -> None:
    """Raise ConfigError for a table [tools.NAME] whose toolset no agent has and no package brings."""
    known = {toolset.name for agent in agents for toolset in toolsets_of(agent)}
    known |= {plugin.name for plugin in installed(TOOLSETS)} if tables else set()
    for name in tables:
        if name not in known:
            remedy = did_you_mean(name, known) or "Install the package that brings it, or take the table out"
            raise ConfigError(f"[tools.{name}]: no toolset has that name", remedy=remedy, field="tools")


def _check_names(agent: Agent, tools: Sequence[Tool]) -> None:
    names = [tool.name for tool in tools]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"agent {agent.agent_id} has two tools named {twice[0]!r}",
            remedy='give one another name: @tool(name="...")',
            field="toolsets",
        )

"""The agents of a worker: each with its tools, the digest of its code, and the tags that it chooses."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from meshwright.agent import Agent
from meshwright.core.errors import ConfigError
from meshwright.core.messages import Task
from meshwright.core.plugins import TOOLSETS, did_you_mean, installed
from meshwright.models.config import LiteLLMConfig
from meshwright.models.routing import CallerTags, tags_nobody_answers
from meshwright.prompts import PromptSources
from meshwright.tools.functions import delegate_tool, remember_tool, tools_of
from meshwright.tools.limited import LimitedTool, Overrun, ToolThreads
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


class BoundAgents(dict[str, BoundAgent]):
    """The agents of a process, by agent id."""


def bind_agents(
    classes: Sequence[type[Agent]],
    settings: ToolSettings,
    on_overrun: Callable[[Overrun], None] = lambda overrun: None,
) -> BoundAgents:
    """Make each agent with its tools, by agent id. Raises ConfigError."""
    return BoundAgents({cls.agent_id: BoundAgent(cls(), settings, on_overrun) for cls in classes})


def toolsets_of(agent: type[Agent]) -> list[type[Toolset]]:
    """The toolsets of an agent, also those it names. Raises ConfigError for one that is not installed."""
    found = [toolset for toolset in agent.toolsets if not isinstance(toolset, str)]
    names = [toolset for toolset in agent.toolsets if isinstance(toolset, str)]
    plugins = {plugin.name: plugin for plugin in installed(TOOLSETS)} if names else {}
    for name in names:
        if name not in plugins:
            problem = f"agent {agent.agent_id} has the toolset {name!r}, which no installed package brings"
            remedy = did_you_mean(name, plugins) or f"Install its package, or name a class of {name!r}"
            raise ConfigError(problem, remedy=remedy, field="toolsets")
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
        problem = f"agent {agent.agent_id} has two tools named {twice[0]!r}"
        raise ConfigError(problem, remedy='give one another name: @tool(name="...")', field="toolsets")


_DIGEST_CHARS = 12


def code_of(agent: type[Agent]) -> str:
    """A hash of the files of an agent, its bases and its toolsets; of a package all files in its folder.

    Prompts are not in it, nor is what those files import from elsewhere: a run follows its journal with any.
    """
    digest = hashlib.sha256()
    classes = [cls for owner in (agent, *toolsets_of(agent)) for cls in owner.__mro__]
    files = {file for cls in classes if cls not in (Agent, Toolset, object) for file in _files_of(cls)}
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:_DIGEST_CHARS]


def _files_of(cls: type) -> Iterator[Path]:
    try:
        file = Path(inspect.getsourcefile(cls) or "")
    except (OSError, TypeError):  # made in an interactive session, or in C
        return
    if (file.parent / "__init__.py").is_file():
        yield from file.parent.glob("*.py")
    elif file.is_file():
        yield file


_SAMPLES = ("What is this?", "Compare these, weigh the trade-offs and recommend one: why? " * 20)
"""A simple request and a complex one: agents choose tags by such."""


def warnings_of(
    config: LiteLLMConfig | None, prompts: PromptSources, agents: Sequence[type[Agent]]
) -> list[ConfigError]:
    """Warnings about improbable settings, and about prompts and agents whose tags no deployment has."""
    if config is None:
        return []
    callers: dict[str, CallerTags] = {}
    groups: dict[str, str] = {}
    for name in prompts.names():
        prompt = prompts.resolve(name)
        groups[name] = prompt.model
        callers[f"prompt {name}"] = (prompt.model, prompt.tags)
    for agent in agents:
        for tags in _tags_by_agent(agent):
            name = f"agent {agent.agent_id} [{', '.join(tags)}]"
            callers[name] = (groups.get(agent.prompt, "default"), tags)
    return [*config.warnings, *tags_nobody_answers(config, callers)]


def _tags_by_agent(agent: type[Agent]) -> list[list[str]]:
    """The tags that an agent chooses for a simple request and a complex one, and those it allows."""
    allowed = [(tag,) for tag in sorted(agent.task_tags)]
    chosen, now = list[tuple[str, ...]](), datetime.now(UTC)
    with suppress(Exception):  # the author's code, on tasks that it was not written for
        task = partial(Task, task_id="sample", thread_id="sample", deadline_at=now, created_at=now)
        chosen = [tuple(agent().tags(task(payload={"text": text})) or ()) for text in _SAMPLES]
    return [list(tags) for tags in dict.fromkeys([*chosen, *allowed]) if tags]

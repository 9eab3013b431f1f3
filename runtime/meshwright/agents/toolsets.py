"""Toolsets of a process: one instance for each table of settings, with its state, restarted when it fails.

Agents that name the same table share the instance. One that has to start is started by the first run that may
use it; one that cannot start, or loses its connection, is `degraded` and tried again after a pause.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Context
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal, NamedTuple

from meshwright.agents.agent import Agent
from meshwright.agents.tools.chain import ToolWrapper
from meshwright.agents.tools.functions import collect_tools
from meshwright.agents.tools.limited_work import ToolThreads
from meshwright.agents.tools.tool import Tool, ToolContext
from meshwright.agents.tools.toolset import Toolset, ToolSettings
from meshwright.core.checks import CheckResult
from meshwright.core.clock import Backoff, Clock, SystemClock
from meshwright.core.display import left_out_text
from meshwright.core.errors import ConfigError, MeshError, ToolFailed, in_one_line
from meshwright.core.part import Check
from meshwright.core.parts import ours
from meshwright.core.plugins import TOOLSETS, did_you_mean, installed
from meshwright.core.redaction import redact

_logger = logging.getLogger("meshwright.toolsets")
_START_SECONDS = 60.0
_WAIT_SECONDS = 20.0  # of a run for toolsets that start
_CLOSE_SECONDS = 10.0
_STEADY_SECONDS = 60.0  # of use, after which the next pause is a short one again
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 60.0
State = Literal["idle", "starting", "ready", "degraded"]
Tell = Callable[[str, dict[str, Any]], None]


def kinds() -> Mapping[str, Callable[[], type[Toolset]]]:
    """Imports the toolsets of each kind that has tables of its own, such as `[kube.prod]`."""
    return {part.name: partial(part.load, part.toolset) for part in ours() if part.toolset}


class ToolsetRef(NamedTuple):
    """A toolset that an agent names: its class, and the name of its table where the kind has several.

    A `problem` says why no table can be meant, as a sentence: such a toolset is degraded.
    """

    cls: type[Toolset]
    table: str = ""
    problem: str = ""

    @property
    def title(self) -> str:
        """Its name for people: `kube.prod`."""
        if self.table:
            return f"{self.cls.kind}.{self.table}"
        return self.cls.name or self.cls.kind or self.cls.__name__

    def make(self, settings: ToolSettings) -> Toolset:
        """Make it. Raises ConfigError for wrong settings."""
        if self.problem:
            return _Unusable(settings, self.problem)
        return self.cls(settings.with_table(self.table))


class _Unusable(Toolset):
    """Takes the place of a toolset whose table is not known."""

    def __init__(self, settings: ToolSettings, problem: str) -> None:
        super().__init__(settings)
        self._problem = problem

    @property
    def lack(self) -> str:
        return self._problem


def toolset_classes(agent: type[Agent]) -> list[type[Toolset]]:
    """The classes of the toolsets that an agent names. Raises ConfigError for one that is not installed."""
    return [
        _find_class(agent, toolset) if isinstance(toolset, str) else toolset for toolset in agent.toolsets
    ]


def find_toolsets(agent: type[Agent], settings: ToolSettings) -> list[ToolsetRef]:
    """The toolsets of an agent: those that it names, and those with tables whose `agents` name it.

    Raises ConfigError for one that is not installed.
    """
    of_agent = [
        _resolve_ref(cls, toolset, settings)
        for cls, toolset in zip(toolset_classes(agent), agent.toolsets, strict=True)
    ]
    by_table = [
        ToolsetRef(kinds()[kind](), name)
        for kind, tables in settings.kinds.items()
        for name, table in tables.items()
        if any(fnmatchcase(agent.agent_id, pattern) for pattern in getattr(table, "agents", ()))
    ]
    return list(dict.fromkeys([*of_agent, *by_table]))


def _find_class(agent: type[Agent], name: str) -> type[Toolset]:
    kind = name.partition(".")[0]
    if kind in kinds():
        return kinds()[kind]()
    plugins = {plugin.name: plugin for plugin in installed(TOOLSETS)}
    if name not in plugins:
        problem = f"agent {agent.agent_id} has the toolset {name!r}, which no installed package brings"
        remedy = (
            did_you_mean(name, [*plugins, *kinds()]) or f"Install its package, or name a class of {name!r}"
        )
        raise ConfigError(problem, remedy=remedy, field="toolsets")
    return plugins[name].load()


def _resolve_ref(cls: type[Toolset], toolset: type[Toolset] | str, settings: ToolSettings) -> ToolsetRef:
    """A toolset with its table; where an agent names none, that is `default` or the only one there is."""
    if not cls.kind:
        return ToolsetRef(cls)
    tables = settings.kinds.get(cls.kind, {})
    table = toolset.partition(".")[2] if isinstance(toolset, str) else ""
    if table and table not in tables:
        remedy = did_you_mean(table, tables) or "Write it in mesh.toml"
        return ToolsetRef(cls, table, in_one_line(f"There is no table [{cls.kind}.{table}]", remedy))
    if table or not tables or "default" in tables:
        return ToolsetRef(cls, table or ("default" if tables else ""))
    if len(tables) > 1:
        listed = ", ".join(f"[{cls.kind}.{name}]" for name in tables)
        remedy = f"Call one of them [{cls.kind}.default], or name it in the agent's toolsets"
        return ToolsetRef(cls, "", in_one_line(f"Several tables fit: {listed}", remedy))
    return ToolsetRef(cls, next(iter(tables)))


def can_do_nothing(agent: type[Agent], settings: ToolSettings) -> bool:
    """Whether each capability of an agent requires a toolset that lacks settings. Raises ConfigError."""
    if not all(capability.requirements for capability in agent.capabilities):
        return False
    refs = find_toolsets(agent, settings)
    lacking = [ref for ref in refs if ref.make(settings).lack]
    names = {name for ref in lacking for name in (ref.title, ref.cls.kind)}
    return all(names.intersection(capability.requirements) for capability in agent.capabilities)


def unusable(settings: ToolSettings, agents: Sequence[type[Agent]]) -> Mapping[str, ConfigError]:
    """The tables [tools.NAME] of no toolset, and the toolsets of agents that have no table, each by its name.

    Raises ConfigError.
    """
    problems = dict[str, ConfigError]()
    names = {toolset.name for agent in agents for toolset in toolset_classes(agent)}
    names |= {plugin.name for plugin in installed(TOOLSETS)} if settings.tables else set()
    for name in (name for name in settings.tables if name not in names):
        remedy = did_you_mean(name, names) or "Load an agent that has it, or take the table out"
        problem = f"[tools.{name}]: no toolset has that name"
        problems[f"tools.{name}"] = ConfigError(problem, remedy=remedy, field="tools")
    for ref in (ref for agent in agents for ref in find_toolsets(agent, settings)):
        if ref.problem:
            problems[ref.title] = ConfigError(ref.problem, field="toolsets")
    return problems


def without_agents(settings: ToolSettings, agents: Sequence[type[Agent]]) -> Iterator[str]:
    """A sentence for each table of a toolset whose patterns fit no agent."""
    names = [agent.agent_id for agent in agents]
    tables = (
        (f"{kind}.{name}", table) for kind in settings.kinds for name, table in settings.kinds[kind].items()
    )
    for title, table in tables:
        patterns = getattr(table, "agents", ())
        if patterns and not any(fnmatchcase(name, pattern) for name in names for pattern in patterns):
            yield f"[{title}] is for agents {', '.join(patterns)}, and there is none of that name"


class _ThreadsOfAgents(ToolThreads):
    """Runs functions of shared tools in the threads of the agent that calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.by_agent: dict[str, ToolThreads] = {}

    async def run(self, function: Callable[[], Any], *, tool: str, context: ToolContext) -> Any:
        """Run a function in a thread of the calling agent."""
        threads = self.by_agent.get(context.agent_id)
        if threads is None:
            return await super().run(function, tool=tool, context=context)
        return await threads.run(function, tool=tool, context=context)


class Toolsets:
    """The toolsets of a process. `tell` gets events of those that become ready or degraded."""

    def __init__(
        self,
        settings: ToolSettings,
        clock: Clock | None = None,
        tell: Tell = lambda event_type, payload: None,
    ) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self._tell = tell
        self._threads = _ThreadsOfAgents()
        self._shared: dict[ToolsetRef, SharedToolset] = {}

    def for_agent(self, agent: type[Agent], threads: ToolThreads) -> list[SharedToolset]:
        """The toolsets of an agent, whose tools run in its threads. Raises ConfigError."""
        self._threads.by_agent[agent.agent_id] = threads
        return [self._get(ref) for ref in find_toolsets(agent, self.settings)]

    def _get(self, ref: ToolsetRef) -> SharedToolset:
        if ref not in self._shared:
            toolset = ref.make(self.settings)
            toolset.threads = self._threads
            self._shared[ref] = SharedToolset(ref.title, toolset, self._clock, self._tell)
        return self._shared[ref]

    def checks(self) -> list[Check]:
        """A check of each toolset that has something to start or to check."""
        checked = {shared.title: shared for shared in self._shared.values() if shared.has_check}
        return [Check(title, shared.probe) for title, shared in checked.items()]

    async def start(self) -> None:
        """Do nothing: a toolset is started by the first run that may use it."""

    async def stop(self) -> None:
        """Close those that were started."""
        await asyncio.gather(*(shared.stop() for shared in self._shared.values()))


class SharedToolset:
    """A toolset with its state. `tools` are those that are known, also while it is not ready.

    Its `start` and `close` are called in one asyncio task, again and again where it fails.
    """

    def __init__(self, title: str, toolset: Toolset, clock: Clock, tell: Tell) -> None:
        cls = type(toolset)
        self.title = title
        self.toolset = toolset
        self.offers_others = cls.tools is not Toolset.tools
        """Whether its tools are known only once it has started."""
        lack = toolset.lack
        self.has_to_start = not lack and (self.offers_others or cls.start is not Toolset.start)
        self.has_check = self.offers_others or self.has_to_start or cls.check is not Toolset.check
        self.state: State = "degraded" if lack else "idle" if self.has_to_start else "ready"
        self.reason = lack
        self.tools: tuple[Tool, ...] = ()
        self._take([] if lack else collect_tools(toolset, threads=toolset.threads))
        toolset.on_news = self._hear
        self._clock = clock
        self._tell = tell
        self._started = asyncio.Event()
        self._news = asyncio.Event()
        self._lost = ""
        self._keeper: asyncio.Task[None] | None = None

    def satisfies(self, requirement: str) -> bool:
        """Whether a requirement of a capability names it: `argocd`, `kube` or `kube.prod`."""
        return requirement in (self.title, self.title.partition(".")[0])

    @property
    def status(self) -> str:
        """Its state as a clause: `ready, 5 tools`."""
        if self.state == "ready":
            left_out = left_out_text(self.toolset.left_out)
            return f"ready, {_counted(len(self.tools))}{left_out}"
        return {"idle": "starts when a run needs it", "degraded": self.reason}.get(self.state, self.state)

    async def use(self) -> None:
        """Start it if that was not done, and wait for the first start to end, for 20 seconds at most."""
        if not self.has_to_start:
            return
        if self._keeper is None:
            self.state = "starting"
            # In a context of its own, since it outlives the run that needs it first.
            self._keeper = asyncio.create_task(self._keep(), name=f"toolset {self.title}", context=Context())
        if self.state == "starting":
            try:
                async with asyncio.timeout(_WAIT_SECONDS):
                    await self._started.wait()
            except TimeoutError:
                _logger.warning("toolset %s still starts after %g s", self.title, _WAIT_SECONDS)

    def check_ready(self, tool: str) -> None:
        """Raise ToolFailed where a tool of it cannot be called now."""
        if self.state != "ready":
            problem = f"{tool} was not run: {self.title} is not available: {self.reason or self.state}"
            raise ToolFailed(problem, remedy="It is tried again: go on without it, or call it later")

    async def probe(self) -> str:
        """Start it, check it and close it, for `mesh doctor`. Raises what these raise."""
        try:
            await self.toolset.start()
            return await self.toolset.check() or _counted(len(await self.toolset.tools()))
        finally:
            await self.toolset.close()

    async def stop(self) -> None:
        """Close it, if it was started. Idempotent."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        elif not self.has_to_start:
            await self.toolset.close()

    async def _keep(self) -> None:
        pauses = Backoff(_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS, jitter=0)
        while True:
            began = self._clock.monotonic()
            reason = await self._run()
            self._set("degraded", reason)
            if self._clock.monotonic() - began >= _STEADY_SECONDS:
                pauses.reset()
            await self._clock.sleep_until(self._clock.now() + timedelta(seconds=pauses.next()))

    async def _run(self) -> str:
        """Start it, and wait until it is lost; returns why."""
        self._lost = ""
        self._news.clear()
        try:
            try:
                async with asyncio.timeout(_START_SECONDS):
                    await self.toolset.start()
                    self._take(await self.toolset.tools())
                self._set("ready")
                while not self._lost:
                    await self._news.wait()
                    self._news.clear()
                    if not self._lost:
                        async with asyncio.timeout(_START_SECONDS):
                            self._take(await self.toolset.tools())
                        self._tell("toolset.changed", {"name": self.title, "tools": len(self.tools)})
                return self._lost
            finally:
                await self._close()
        except TimeoutError:
            return f"it did not start within {_START_SECONDS:g} s"
        # A toolset is a stranger's code: its agents go on without it.
        except Exception as error:
            _logger.debug("toolset %s failed", self.title, exc_info=error)
            return _in_words(error)

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.toolset.close()
        except Exception as error:  # noqa: BLE001 that a stranger's code fails must not hide why it is closed
            _logger.warning("toolset %s was not closed in order: %s", self.title, _in_words(error))

    def _take(self, tools: Sequence[Tool]) -> None:
        counts = Counter(tool.name for tool in tools)
        if twice := next((name for name, count in counts.items() if count > 1), None):
            remedy = 'give one another name: @tool(name="...")'
            raise ConfigError(f"it offers two tools named {twice!r}", remedy=remedy)
        if self.has_to_start:
            tools = [_SharedTool(tool, self) for tool in tools]
        self.tools = tuple(tools)

    def _hear(self, lost_why: str) -> None:
        """Called by the toolset: it is lost, for a reason, or has other tools."""
        self._lost = self._lost or lost_why
        if lost_why and self.state == "ready":  # calls fail from now on
            self._set("degraded", lost_why)
        self._news.set()

    def _set(self, state: State, reason: str = "") -> None:
        before = self.state, self.reason
        self.state, self.reason = state, redact(reason)
        self._started.set()
        if (self.state, self.reason) == before:
            return
        if state == "ready":
            self._tell("toolset.ready", {"name": self.title, "tools": len(self.tools)})
        else:
            _logger.warning("toolset %s is not available: %s", self.title, self.reason)
            self._tell("toolset.degraded", {"name": self.title, "reason": self.reason})


class _SharedTool(ToolWrapper):
    """A tool of a toolset that may not be ready: then a call fails with the reason, or the tool says so."""

    def __init__(self, inner: Tool, owner: SharedToolset) -> None:
        super().__init__(inner)
        self._owner = owner

    async def call(self, arguments: str, context: ToolContext) -> Any:
        """Call the tool where its toolset is ready."""
        if not self.inner.connects_late:
            self._owner.check_ready(self.name)
        return await super().call(arguments, context)

    async def preview(self, arguments: str, context: ToolContext) -> Any | None:
        """Ask the tool for its preview where its toolset is ready."""
        self._owner.check_ready(self.name)
        return await super().preview(arguments, context)

    async def check(self, arguments: str, context: ToolContext) -> CheckResult:
        """Ask the tool whether a call has happened, where its toolset is ready."""
        self._owner.check_ready(self.name)
        return await super().check(arguments, context)


def _in_words(error: BaseException) -> str:
    text = str(error) if isinstance(error, MeshError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split()).rstrip(".: ")


def _counted(tools: int) -> str:
    return "1 tool" if tools == 1 else f"{tools} tools"

"""Finds agents in the project's `actors` folder and in installed packages, and binds each to its tools."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import importlib
import inspect
import json
import logging
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from zlib import crc32

from pydantic import ValidationError

from meshwright.agents.agent import Agent
from meshwright.agents.prompts import CodePrompt
from meshwright.agents.settings import AgentsSettings, PromptsSettings
from meshwright.agents.skills.catalog import Skills
from meshwright.agents.skills.tools import SkillTool
from meshwright.agents.tools.functions import collect_tools, delegate_tool, recall_tool, remember_tool
from meshwright.agents.tools.limited_work import Overrun, ToolThreads, author_place
from meshwright.agents.tools.tool import Tool
from meshwright.agents.tools.toolset import Toolset
from meshwright.agents.toolsets import Toolsets, toolset_classes
from meshwright.core.capability import LEFT_OUT, Registration
from meshwright.core.errors import ConfigError, MeshError, nearest, sentence
from meshwright.core.plugins import AGENTS, installed
from meshwright.core.settings import Settings

logger = logging.getLogger("meshwright.agents")
PACKAGED = Path(__file__).parents[1] / "_project"
READS_PROMPT = frozenset({"ask", "converse", "prepare"})
"""The methods of a `Run` that need the prompt of its agent."""
_ASKS_MODEL = READS_PROMPT | {"anthropic", "complete", "openai"}
CHECKOUT = Path(__file__).parents[3]
_DIGEST_CHARS = 12
_FIND_SECONDS = 1.0  # between two looks for a tool whose toolset is not ready
_MANY_TOOLS, _MANY_CHARS = 64, 64_000


def project_file(project: Path, name: Path) -> Path:
    """A file or folder of the project; where it has none, the copy that comes with Meshwright."""
    path = project / name
    if path.exists() or name.is_absolute():
        return path
    return next((base / name.name for base in (PACKAGED, CHECKOUT) if (base / name.name).exists()), path)


def prompts_folder(project: Path, settings: Settings) -> Path:
    """The folder of the prompt files: Meshwright's own copy only for a project that has no agents either."""
    own = project / settings[PromptsSettings].dir
    has_agents = (project / settings[AgentsSettings].dir).is_dir()
    return own if has_agents else project_file(project, settings[PromptsSettings].dir)


def load_agents(
    folder: Path,
    project: Path | None = None,
    *,
    beside: Iterable[type[Agent]] = (),
    others: Sequence[type[Agent]] = (),
) -> list[type[Agent]]:
    """Every agent class of the Python files and packages of a folder, by file name, and the installed ones.

    Those of `beside` join them; `others` are not returned, but they may delegate to these.

    Names that begin with an underscore are left to imports. The files may import one another, by their names
    or relatively, and what lies in the project's folder. A file that defines no agent offers those that it
    imports from elsewhere; one that has none at all has to be imported by another.

    Raises ConfigError, with file and line, for a file that cannot be loaded or has no use, two agents of one
    id, or an agent that delegates to one that is not there.
    """
    modules, own = _read(folder, project)
    agents = list(dict.fromkeys([*own, *beside, *installed_agents()]))
    _check_unique(agents, others)
    _check_delegation(agents, others)
    _warn_of_passed_over(modules, agents, folder)
    return agents


def check_agents(agents: Sequence[type[Agent]], others: Sequence[type[Agent]] = ()) -> Sequence[type[Agent]]:
    """These agents, or without any those of the started file; `others` are those of the settings.

    Raises ConfigError as `load_agents` does.
    """
    started = sys.modules["__main__"]
    candidates = agents or [value for value in vars(started).values() if _is_agent(value)]
    if not agents:
        candidates = [agent for agent in candidates if agent.__module__ == started.__name__]
    wrong = [f"{agent!r} is no class of an agent" for agent in candidates if not _is_agent(agent)]
    if wrong or not candidates:
        remedy = "Define a class with Agent as its base, or name the agents: run_mesh(Greeter)"
        problem = next(iter(wrong), "this file defines no agent")
        raise ConfigError(problem, path=getattr(started, "__file__", ""), remedy=remedy)
    _check_unique(candidates, others)
    _check_delegation(candidates, others)
    return candidates


def agents_in(folder: Path) -> list[type[Agent]]:
    """The agent classes of a folder alone, by file name. Raises ConfigError as `load_agents` does."""
    return _read(folder, None)[1]


def _read(folder: Path, project: Path | None) -> tuple[dict[Path, ModuleType], list[type[Agent]]]:
    if not folder.is_dir():
        raise ConfigError(
            "there is no folder of agents", path=str(folder), remedy="make it, or set agents.dir in mesh.toml"
        )
    package = _package(folder, project)
    modules = {path: _load(package, path) for path in _sources(folder)}
    offered = {path: _agents_in(module, folder) for path, module in modules.items()}
    _check_use(folder, offered)
    return modules, [agent for agents in offered.values() for agent in agents]


def installed_agents() -> list[type[Agent]]:
    """The agents that installed packages register: classes, or modules with some. Raises ConfigError."""
    installed_classes: list[type[Agent]] = []
    for plugin in installed(AGENTS):
        plugin_value = plugin.load()
        values = vars(plugin_value).values() if inspect.ismodule(plugin_value) else plugin_value
        agents = [cls for cls in (values if isinstance(values, Iterable) else [values]) if _is_agent(cls)]
        if not agents:
            problem = f"{plugin.package} registers {plugin.value} as an agent, and it is none"
            remedy = "Register a class with Agent as its base, or a module or list of such"
            raise ConfigError(problem, remedy=remedy)
        installed_classes += agents
    return installed_classes


def _is_agent(value: Any) -> bool:
    return (
        inspect.isclass(value) and issubclass(value, Agent) and hasattr(value, "agent_id")
    )  # no base of agents


def needs_prompt(agent: type[Agent]) -> bool:
    """Whether an agent reads its prompt: it runs as `Agent` does, or its code asks a model by it."""
    return _uses(agent, READS_PROMPT)


def asks_model(agent: type[Agent]) -> bool:
    """Whether an agent asks a model, as far as its own code shows."""
    return _uses(agent, _ASKS_MODEL)


def _uses(agent: type[Agent], names: frozenset[str]) -> bool:
    if agent.run is Agent.run:
        return True
    classes = agent.__mro__[: agent.__mro__.index(Agent)]
    values = (getattr(value, "__func__", value) for cls in classes for value in vars(cls).values())
    codes = (code for value in values if isinstance(code := getattr(value, "__code__", None), CodeType))
    return any(not names.isdisjoint(_names_in(code)) for code in codes)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names_in(inner)


def prompts_brought(agents: Iterable[type[Agent]]) -> dict[str, CodePrompt]:
    """The prompts that stand in the code of agents, by name."""
    return {
        agent.prompt: CodePrompt(agent.prompt_text, agent.__qualname__, _source_file(agent))
        for agent in agents
        if agent.prompt_text
    }


def prompt_variables(agents: Iterable[type[Agent]]) -> dict[str, tuple[str, ...]]:
    """The variables that all agents with a prompt have in their classes, by the name of the prompt."""
    by_prompt: dict[str, tuple[str, ...]] = {}
    for agent in agents:
        shared = by_prompt.get(agent.prompt, agent.variables)
        by_prompt[agent.prompt] = tuple(name for name in agent.variables if name in shared)
    return by_prompt


def _source_file(agent: type[Agent]) -> str:
    try:
        return inspect.getsourcefile(agent) or ""
    except (OSError, TypeError):  # made in an interactive session
        return ""


def _package(folder: Path, project: Path | None) -> str:
    """Make a package of the folder, for relative imports, and let Python find its files and the project's."""
    for path in (folder, project):
        # Behind all others: a file of the project must not stand in for a library that Meshwright imports.
        if path is not None and str(path.resolve()) not in sys.path:
            sys.path.append(str(path.resolve()))
    importlib.invalidate_caches()
    name = f"meshwright_actors_{crc32(str(folder.resolve()).encode()):08x}"
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
        del sys.modules[loaded]  # its files may have changed
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    return name


def _sources(folder: Path) -> list[Path]:
    """The files and packages that may hold agents. Raises ConfigError for a folder that is no package."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith(("_", ".")))
    folders = [path for path in paths if path.is_dir() and any(path.glob("*.py"))]
    for path in folders:
        if not (path / "__init__.py").exists() and path.name not in _imported_names(folder):
            problem = "this folder holds Python files and no __init__.py, and no agent imports it"
            remedy = "Import its agents in an __init__.py, or put an underscore before its name"
            raise ConfigError(problem, remedy=remedy, path=str(path))
    packages = [path for path in folders if (path / "__init__.py").exists()]
    return [path for path in paths if path.suffix == ".py" or path in packages]


def _agents_in(module: ModuleType, folder: Path) -> list[type[Agent]]:
    classes = [value for value in vars(module).values() if _is_agent(value)]
    own = [cls for cls in classes if f"{cls.__module__}.".startswith(f"{module.__name__}.")]
    return own or [cls for cls in classes if not _is_within(cls, folder)]


def _warn_of_passed_over(
    modules: Mapping[Path, ModuleType], agents: Sequence[type[Agent]], folder: Path
) -> None:
    """Warn of agents from elsewhere that a file imports beside its own: they are not loaded."""
    for path, module in modules.items():
        for agent in vars(module).values():
            is_base = any(issubclass(other, agent) for other in agents) if _is_agent(agent) else True
            if not is_base and not _is_within(agent, folder):
                logger.warning(
                    "%s: %s is imported and not loaded, since the file defines agents of its own; "
                    "import it in a file of its own to load it",
                    path,
                    agent.__name__,
                )


def _is_within(agent: type[Agent], folder: Path) -> bool:
    file = getattr(sys.modules.get(agent.__module__), "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(folder.resolve())


def _check_use(folder: Path, offered: Mapping[Path, Sequence[type[Agent]]]) -> None:
    unused = [path for path, agents in offered.items() if not agents]
    imported = _imported_names(folder) if unused else set()
    for path in unused:
        if path.stem not in imported:
            problem = "there is no agent here, and no agent imports it"
            remedy = "Define a class with Agent as its base, or put an underscore before the name"
            raise ConfigError(problem, remedy=remedy, path=str(path))


def _imported_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        # Loading the file says what is wrong with it; the last two are of code that is nested too deep.
        with suppress(SyntaxError, ValueError, OSError, RecursionError, MemoryError):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    whole = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                    names.update(part for name in whole for part in name.split("."))
    return names


def _load(package: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(f"{package}.{path.stem}")
    except MeshError as error:
        if isinstance(error, ConfigError) and error.path:
            raise
        where, line = _place(path, error)
        raise ConfigError(
            error.message, path=where, line=line, remedy=error.remedy, field=error.field
        ) from error
    except (Exception, SystemExit) as error:  # the file is the author's: any error is reported with its place
        where, line = _place(path, error)
        problem = f"this agent cannot be loaded: {_in_a_line(error)}"
        remedy = f"Fix the file, or move it out of {path.parent.name}/"
        raise ConfigError(problem, remedy=remedy, path=where, line=line) from error


def _in_a_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):  # of a Capability, for example
        faults = "; ".join(f"{'.'.join(map(str, it['loc']))} {sentence(it)}" for it in error.errors())
        return f"{error.title}: {faults}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _place(path: Path, error: BaseException) -> tuple[str, int | None]:
    """The file and line to look at: the last of the author's, or where the syntax is wrong."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    return author_place(error) or (str(path), None)


def _check_unique(agents: Sequence[type[Agent]], others: Sequence[type[Agent]]) -> None:
    by_id: dict[str, type[Agent]] = {}
    of_settings = {agent.agent_id for agent in others}
    for agent in agents:
        other = by_id.setdefault(agent.agent_id, agent)
        if other is not agent:
            remedy = f"rename this one; the other is {':'.join(map(str, _source_place(other)))}"
            raise _wrong(agent, f"two agents are called {agent.agent_id!r}", remedy, "agent_id")
        if agent.agent_id in of_settings:
            remedy = "rename this one, or that table of mesh.toml"
            problem = f"a table of the settings makes an agent {agent.agent_id!r} too"
            raise _wrong(agent, problem, remedy, "agent_id")


def _source_place(agent: type[Agent]) -> tuple[str, int]:
    return inspect.getfile(agent), inspect.getsourcelines(agent)[1]


def _wrong(agent: type[Agent], problem: str, remedy: str, field: str) -> ConfigError:
    path, line = _source_place(agent)
    return ConfigError(problem, path=path, line=line, remedy=remedy, field=field)


def _check_delegation(agents: Sequence[type[Agent]], others: Sequence[type[Agent]]) -> None:
    known = (*agents, *others)
    names = {agent.agent_id for agent in known}
    names |= {capability.name for agent in known for capability in agent.capabilities}
    for agent in agents:
        for name in agent.delegates_to:
            if name not in names:
                close = nearest(name, names)
                remedy = f"Did you mean {close!r}?" if close else f"There are {', '.join(sorted(names))}"
                problem = f"agent {agent.agent_id} delegates to {name!r}, no agent or capability here"
                raise _wrong(agent, problem, remedy, "delegates_to")


class BoundAgent:
    """An agent with its tools, ready to work. `tools` are those that are known now.

    `on_overrun` is called for threads of tools that do not end; `capabilities` are those that it may
    delegate to. Raises ConfigError where a tool cannot be described, or two share a name.
    """

    def __init__(
        self,
        agent: Agent,
        toolsets: Toolsets,
        on_overrun: Callable[[Overrun], None] = lambda overrun: None,
        capabilities: Collection[str] = (),
        skills: Skills | None = None,
    ) -> None:
        self.agent = agent
        settings = toolsets.settings
        size = agent.max_concurrency or settings.max_concurrency
        self.threads = ToolThreads(agent.agent_id, size, on_overrun)
        self.toolsets = toolsets.for_agent(type(agent), self.threads)
        self._own = collect_tools(agent, threads=self.threads)
        if agent.delegates_to:
            self._own.append(delegate_tool(agent.delegates_to, capabilities))
        if agent.remembers:
            self._own.append(remember_tool())
        if skills is not None and skills.has_any(agent.agent_id):
            self._own.append(SkillTool(skills, agent.agent_id, self._runs_programs))
        self._offers = self._offered()
        self.tools = self._by_name()
        self._has_many = False
        names = [tool.name for offer in self._offers for tool in offer]  # a slip shows at once
        if twice := sorted({name for name in names if names.count(name) > 1}):
            problem = f"agent {agent.agent_id} has two tools named {twice[0]!r}"
            raise ConfigError(problem, remedy='give one another name: @tool(name="...")', field="toolsets")

    def _runs_programs(self) -> bool:
        return any(tool.effect == "run" for tool in self.tools.values())

    async def ready_tools(self) -> Mapping[str, Tool]:
        """The tools of a run that starts now, by name. Toolsets that it needs are started side by side."""
        starting = [toolset.use() for toolset in self.toolsets if toolset.has_to_start]
        if starting:
            await asyncio.gather(*starting)
        if (offers := self._offered()) != self._offers:
            self._offers = offers
            self.tools = self._by_name()
            self._warn_of_many()
        return self.tools

    async def find_tool(self, name: str) -> Tool | None:
        """A tool by name, as soon as the toolsets are ready that may have it; None where none has it."""
        while (tool := (await self.ready_tools()).get(name)) is None:
            if all(one.state == "ready" for one in self.toolsets if one.has_to_start):
                return None
            await asyncio.sleep(_FIND_SECONDS)
        return tool

    def _warn_of_many(self) -> None:
        """Say once that each request carries more tools than models tell apart, or providers take."""
        chars = sum(len(tool.description) + len(json.dumps(tool.parameters)) for tool in self.tools.values())
        if self._has_many or (len(self.tools) <= _MANY_TOOLS and chars <= _MANY_CHARS):
            return
        self._has_many = True
        sizes = {toolset.title: len(toolset.tools) for toolset in self.toolsets if toolset.tools}
        listed = ", ".join(f"{title} ({count})" for title, count in sizes.items())
        logger.warning(
            "Agent %s sends %d tools with %s characters in each request, which costs tokens, and some "
            "providers take no more than 128. Name fewer of them in the tables of its toolsets, or give them "
            "to several agents: %s",
            self.agent.agent_id,
            len(self.tools),
            f"{chars:,}",
            listed,
        )

    @property
    def is_changing(self) -> bool:
        """Whether another run may have other tools."""
        return any(toolset.offers_others for toolset in self.toolsets)

    async def may_change(self) -> bool:
        """Whether a run may change something; true where its tools cannot be known now."""
        tools = await self.ready_tools()
        is_unknown = any(toolset.has_to_start and toolset.state != "ready" for toolset in self.toolsets)
        return is_unknown or any(tool.may_change for tool in tools.values())

    def registration(self) -> Registration:
        """How the agent makes itself known, with the states of its toolsets."""
        registration = self.agent.registration()
        states = {toolset.title: toolset.status for toolset in self.toolsets}
        metadata = {**registration.metadata, "toolsets": states} if states else registration.metadata
        left_out = {one.title: dict(one.toolset.left_out) for one in self.toolsets if one.toolset.left_out}
        metadata = {**metadata, LEFT_OUT: left_out} if left_out else metadata
        unmet = {
            capability.name: toolset.reason
            for capability in registration.capabilities
            for toolset in self.toolsets
            if toolset.state == "degraded" and any(map(toolset.satisfies, capability.requirements))
        }
        return registration.model_copy(
            update={"metadata": metadata, "unmet": {**registration.unmet, **unmet}}
        )

    async def start(self) -> None:
        """Do nothing: toolsets are started by the first run that needs them."""

    async def stop(self) -> None:
        """Report no more threads."""
        self.threads.close()

    def _offered(self) -> list[Sequence[Tool]]:
        return [self._own, *(toolset.tools for toolset in self.toolsets)]

    def _by_name(self) -> dict[str, Tool]:
        """The tools by name; of two with one name the first."""
        tools: dict[str, Tool] = {}
        for tool in (tool for offer in self._offers for tool in offer):
            if tool.name in tools:
                logger.warning(
                    "agent %s has two tools named %s: one of them is left out", self.agent.agent_id, tool.name
                )
                continue
            tools[tool.name] = tool
        if self.agent.remembers and "recall" not in tools:
            tools["recall"] = recall_tool()
        return tools


class BoundAgents(dict[str, BoundAgent]):
    """The agents of a process, by agent id."""


def bind_agents(
    classes: Sequence[type[Agent]],
    toolsets: Toolsets,
    on_overrun: Callable[[Overrun], None] = lambda overrun: None,
    others: Sequence[type[Agent]] = (),
    skills: Skills | None = None,
) -> BoundAgents:
    """Make each agent with its tools, by agent id; `others` are those that they may delegate to as well.

    Raises ConfigError.
    """
    all_classes = (*classes, *others)
    able = {capability.name for cls in all_classes for capability in cls.capabilities}
    able -= {cls.agent_id for cls in all_classes}  # a name of both means the agent
    return BoundAgents(
        {cls.agent_id: BoundAgent(cls(), toolsets, on_overrun, able, skills) for cls in classes}
    )


def hash_code(agent: type[Agent]) -> str:
    """A hash of the files of an agent, its bases and its toolsets; of a package all files in its folder.

    Prompts are not in it, nor is what those files import from elsewhere: a run follows its journal with any.
    """
    digest = hashlib.sha256()
    classes = [cls for owner in (agent, *toolset_classes(agent)) for cls in owner.__mro__]
    files = {file for cls in classes if cls not in (Agent, Toolset, object) for file in _source_files(cls)}
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:_DIGEST_CHARS]


def _source_files(cls: type) -> Iterator[Path]:
    try:
        file = Path(inspect.getsourcefile(cls) or "")
    except (OSError, TypeError):  # made in an interactive session, or in C
        return
    if (file.parent / "__init__.py").is_file():
        yield from file.parent.glob("*.py")
    elif file.is_file():
        yield file

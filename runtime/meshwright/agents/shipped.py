"""The agents of a project: those of its folder, and those of Meshwright that `[agents] include` names.

`find_warnings` and `cache_warnings` look at the models that they ask for.

Those that come with Meshwright are also classes of this module, each with its prompt:

    from meshwright.agents.shipped import ProjectManager
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from meshwright.agents.agent import Agent
from meshwright.agents.loader import CHECKOUT, PACKAGED, agents_in, load_agents, project_file
from meshwright.agents.prompts import PromptSources
from meshwright.agents.settings import AgentsSettings
from meshwright.core.errors import ConfigError, nearest
from meshwright.core.messages import Task
from meshwright.core.settings import Settings
from meshwright.models.config import LiteLLMConfig
from meshwright.models.routing import CallerTags, group_deployments, tags_nobody_answers
from meshwright.models.settings import ModelsSettings

_SAMPLES = ("What is this?", "Compare these, weigh the trade-offs and recommend one: why? " * 20)
"""A simple request and a complex one: agents choose tags by such."""


def __getattr__(name: str) -> Any:
    """The class of an agent that comes with Meshwright. They are loaded once, at the first import of one."""
    if not name.startswith("_"):
        globals().update({agent.__name__: agent for agent in shipped_agents()})
    if name in globals():
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def shipped_folder(name: str) -> Path:
    """The folder of the agents (`actors`) or prompts (`prompts`) that come with Meshwright."""
    return next((base / name for base in (PACKAGED, CHECKOUT) if (base / name).is_dir()), CHECKOUT / name)


def project_agents(
    settings: Settings, project: Path, *, others: Sequence[type[Agent]] = ()
) -> list[type[Agent]]:
    """Every agent of a project; `others` are those of its settings, to which they may delegate.

    Raises ConfigError, also for one to include that does not come with us.
    """
    folder = project_file(project, settings[AgentsSettings].dir)
    own = folder.resolve() == shipped_folder("actors").resolve()
    beside = [] if own else _wanted(settings[AgentsSettings].include)
    return load_agents(folder, project, beside=beside, others=others)


def shipped_agents() -> list[type[Agent]]:
    """The agents that come with Meshwright, with their prompts."""
    agents = agents_in(shipped_folder("actors"))
    for agent in agents:
        agent.prompt_text = agent.prompt_text or shipped_prompt(agent.prompt)
    return agents


def _wanted(names: Sequence[str]) -> list[type[Agent]]:
    if not names:
        return []
    by_id = {agent.agent_id: agent for agent in shipped_agents()}
    for name in names:
        if name not in by_id:
            likely = nearest(name, by_id)
            remedy = f"Did you mean {likely!r}?" if likely else f"There are {', '.join(by_id)}"
            raise ConfigError(f"agents.include: no agent {name!r} comes with Meshwright", remedy=remedy)
    return [by_id[name] for name in names]


def shipped_prompt(name: str) -> str:
    """The text of a prompt that comes with Meshwright; "" if there is none of that name."""
    path = shipped_folder("prompts") / f"{name}.prompt"
    return path.read_text("utf-8") if path.is_file() else ""


def find_warnings(
    config: LiteLLMConfig | None, prompts: PromptSources, agents: Sequence[type[Agent]]
) -> list[ConfigError]:
    """Warnings about improbable settings, and about prompts and agents whose tags no deployment has."""
    if config is None:
        return []
    callers: dict[str, CallerTags] = {}
    groups: dict[str, str] = {}
    by_code = {agent.prompt: agent.model for agent in agents if agent.model}
    for name in prompts.names():
        prompt = prompts.resolve(name)
        groups[name] = by_code.get(name, prompt.model)
        callers[f"prompt {name}"] = (groups[name], prompt.tags)
    for agent in agents:
        for tags in _tags_by_agent(agent):
            name = f"agent {agent.agent_id} [{', '.join(tags)}]"
            callers[name] = (agent.model or groups.get(agent.prompt, "default"), tags)
    # A model that code names needs no group: the start fails where it cannot be called.
    outright = {model for model in by_code.values() if group_deployments(config, model) is None}
    callers = {name: caller for name, caller in callers.items() if caller[0] not in outright}
    return [*config.warnings, *tags_nobody_answers(config, callers)]


def cache_warnings(config: ModelsSettings, agents: Sequence[type[Agent]]) -> list[str]:
    """Warnings about agents that `create_agent` was to give another cache than the mesh has."""
    warnings = []
    for agent in agents:
        options = agent.cache_options if agent.cache_options.get("enabled") else {}
        kind, ttl = options.get("type"), options.get("ttl")
        name = "memory" if kind == "local" else kind  # LiteLLM calls it local
        if kind is not None and name != config.cache:
            wish = f"agent {agent.agent_id} asks for a cache of the type {kind!r}"
            warnings.append(
                f"{wish}, and models.cache is {config.cache!r}. Set models.cache = {name!r} in mesh.toml"
            )
        elif ttl is not None and ttl != config.cache_ttl_seconds:
            wish = f"agent {agent.agent_id} asks for answers of {ttl:g} s from the cache"
            warnings.append(f"{wish}. Set models.cache_ttl_seconds = {ttl:g} in mesh.toml")
    return warnings


def _tags_by_agent(agent: type[Agent]) -> list[list[str]]:
    """The tags that an agent chooses for a simple request and a complex one, and those it allows."""
    allowed = [(tag,) for tag in sorted(agent.task_tags)]
    chosen, now = list[tuple[str, ...]](), datetime.now(UTC)
    with suppress(Exception):  # the author's code, on tasks that it was not written for
        task = partial(Task, task_id="sample", thread_id="sample", deadline_at=now, created_at=now)
        chosen = [tuple(agent().tags(task(payload={"text": text})) or ()) for text in _SAMPLES]
    return [list(tags) for tags in dict.fromkeys([*chosen, *allowed]) if tags]

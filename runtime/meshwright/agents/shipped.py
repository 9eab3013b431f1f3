"""The agents of a project: those of its folder, and those of Meshwright that `[agents] include` names.

Those that come with Meshwright are also classes of this module, each with its prompt:

    from meshwright.agents.shipped import ProjectManager
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshwright.agent import Agent
from meshwright.agents.loader import CHECKOUT, PACKAGED, agents_in, load_agents, project_file
from meshwright.agents.settings import AgentsSettings
from meshwright.core.errors import ConfigError, nearest
from meshwright.settings import Settings


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


def project_agents(settings: Settings, project: Path) -> list[type[Agent]]:
    """Every agent of a project. Raises ConfigError, also for one to include that does not come with us."""
    folder = project_file(project, settings[AgentsSettings].dir)
    own = folder.resolve() == shipped_folder("actors").resolve()
    return load_agents(folder, project, beside=[] if own else _wanted(settings[AgentsSettings].include))


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

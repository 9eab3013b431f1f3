"""The fleet: the agents of a project's `actors` folder, one Python file each."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

from meshwright.agent import Agent
from meshwright.errors import ConfigError, MeshError
from meshwright.prompts import Brought

PACKAGED = Path(__file__).parent / "_project"
CHECKOUT = Path(__file__).parents[2]


def project_file(project: Path, name: Path) -> Path:
    """A file or folder of the project; where it has none, the copy that comes with Meshwright."""
    wanted = project / name
    if wanted.exists() or name.is_absolute():
        return wanted
    return next((base / name.name for base in (PACKAGED, CHECKOUT) if (base / name.name).exists()), wanted)


def load_agents(folder: Path) -> list[type[Agent]]:
    """Every agent class defined in the Python files of a folder, by file name.

    Raises ConfigError, with file and line, for a file that cannot be loaded, or two agents of one id.
    """
    if not folder.is_dir():
        raise ConfigError(
            "there is no folder of agents", path=str(folder), remedy="make it, or set actors_dir in mesh.toml"
        )
    files = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
    found = [agent for path in files for agent in _agents_in(_load(path))]
    _check_unique(found)
    return found


def prompts_brought(agents: Iterable[type[Agent]]) -> dict[str, Brought]:
    """The prompts that stand in the code of agents, by name."""
    return {
        agent.prompt: Brought(agent.prompt_text, agent.__qualname__, _file_of(agent))
        for agent in agents
        if agent.prompt_text
    }


def _file_of(agent: type[Agent]) -> str:
    try:
        return inspect.getsourcefile(agent) or ""
    except (OSError, TypeError):  # made in an interactive session
        return ""


def _agents_in(module: ModuleType) -> list[type[Agent]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Agent) and value.__module__ == module.__name__
    ]


def _load(path: Path) -> ModuleType:
    name = f"meshwright_actors.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations of its tools are looked up here
    try:
        spec.loader.exec_module(module)
    except MeshError as error:
        if isinstance(error, ConfigError) and error.path:
            raise
        raise ConfigError(
            error.message,
            path=str(path),
            line=_line_in(path, error),
            remedy=error.remedy,
            field=error.field,
        ) from error
    except (Exception, SystemExit) as error:  # the file is not ours: whatever stops it is told with its place
        raise ConfigError(
            f"this agent cannot be loaded: {type(error).__name__}: {error}",
            path=str(path),
            line=_line_in(path, error),
            remedy=f"Fix the file, or move it out of {path.parent.name}/",
        ) from error
    return module


def _line_in(path: Path, error: BaseException) -> int | None:
    if isinstance(error, SyntaxError):
        return error.lineno
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return lines[-1] if lines else None


def _check_unique(agents: Sequence[type[Agent]]) -> None:
    seen: dict[str, type[Agent]] = {}
    for agent in agents:
        other = seen.setdefault(agent.agent_id, agent)
        if other is not agent:
            raise ConfigError(
                f"two agents are called {agent.agent_id!r}",
                path=inspect.getfile(agent),
                line=_line_of(agent),
                remedy=f"rename this one; the other is {inspect.getfile(other)}:{_line_of(other)}",
                field="agent_id",
            )


def _line_of(agent: type[Agent]) -> int:
    return inspect.getsourcelines(agent)[1]

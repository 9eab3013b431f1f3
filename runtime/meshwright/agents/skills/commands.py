"""`mesh skills`: the skills of a project and of installed packages, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.agents.skills.settings import SkillsSettings
from meshwright.console.nouns import Noun
from meshwright.console.options import json_option
from meshwright.console.output import echo_json, show
from meshwright.console.project import declared_agents
from meshwright.core.display import Column, Document
from meshwright.core.errors import ConfigError

if TYPE_CHECKING:
    from meshwright.agents.skills.skill import Skill
    from meshwright.core.settings import Settings

_COLUMNS = (
    Column("skill", "name"),
    Column("digest", "digest"),
    Column("from", "source", cut=2),
    Column("agents", "agents", ", ".join, cut=3),
    Column("description", "description", cut=1),
)


@click.group(cls=Noun)
def skills() -> None:
    """List the skills of agents, and check their files."""


@skills.command("list")
@json_option
def _list(as_json: bool) -> None:
    """List the skills of this project and of installed packages, with the agents that have them.

    Runs nothing of the project; agents whose skills are known only when their code runs are not named.
    """
    from meshwright.agents.skills.catalog import read_skills, skill_places

    settings = _settings()
    project_skills, problems = read_skills(skill_places(Path.cwd(), settings[SkillsSettings]))
    patterns = _patterns(settings)
    rows = [_row(skill, patterns) for _, skill in sorted(project_skills.items())]
    dirs = " and ".join(f"{folder}/" for folder in settings[SkillsSettings].dirs)
    show(rows, _COLUMNS, as_json=as_json, empty=f"there are no skills in {dirs}, nor of packages")
    if problems:
        counted = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        click.echo(f"mesh: {counted}: mesh skills check shows them", err=True)


@skills.command("check")
@click.argument("folders", metavar="[FOLDER]...", nargs=-1, type=click.Path(path_type=Path))
@json_option
def _check(folders: tuple[Path, ...], as_json: bool) -> int:
    """Check skills by the specification of Agent Skills: all of this project, or those in the folders.

    Without folders it also names agents with a skill that is not there. Exit status 1 if anything is wrong.
    """
    count, problems = _check_folders(folders) if folders else _check_project()
    if as_json:
        fields = ("path", "line", "field", "message", "remedy")
        echo_json([{name: getattr(problem, name) for name in fields} for problem in problems])
    else:
        counted = "1 skill" if count == 1 else f"{count} skills"
        click.echo("\n".join(map(str, problems)) or f"{counted} checked, no problems.")
    return 1 if problems else 0


def _check_folders(folders: tuple[Path, ...]) -> tuple[int, list[ConfigError]]:
    from meshwright.agents.skills.skill import load_skill

    problems: list[ConfigError] = []
    for folder in folders:
        try:
            problems += load_skill(folder.absolute()).skill.warnings
        except ConfigError as error:
            problems.append(error)
    return len(folders), problems


def _check_project() -> tuple[int, list[ConfigError]]:
    from meshwright.agents.skills.catalog import check_named, read_skills, skill_places

    settings = _settings()
    project_skills, problems = read_skills(skill_places(Path.cwd(), settings[SkillsSettings]))
    for agent_id, names in _patterns(settings).items():
        try:
            check_named(agent_id, names, project_skills)
        except ConfigError as error:
            problems.append(error)
    return len(project_skills), problems


def _patterns(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The names and patterns of skills by agent, of the classes and of the settings."""
    patterns = {agent_id: tuple(names) for agent_id, names in settings[SkillsSettings].agents.items()}
    for agent in declared_agents(settings).agents:
        names = tuple(filter(None, str(agent.metadata.get("skills", "")).split(", ")))
        if names:
            patterns[agent.agent_id] = (*names, *patterns.get(agent.agent_id, ()))
    return patterns


def _row(skill: Skill, patterns: dict[str, tuple[str, ...]]) -> Document:
    from meshwright.agents.skills.catalog import skills_meant

    by_title = {skill.title: skill}
    return {
        "name": skill.title,
        "digest": skill.digest,
        "source": f"package {skill.package}" if skill.package else str(_from_here(skill.folder)),
        "outside": skill.is_outside,
        "agents": [agent_id for agent_id, names in sorted(patterns.items()) if skills_meant(names, by_title)],
        "description": skill.description,
        "license": skill.license,
        "compatibility": skill.compatibility,
        "metadata": dict(skill.metadata),
        "allowed_tools": list(skill.allowed_tools),
        "files": list(skill.files),
        "path": skill.path,
    }


def _from_here(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _settings() -> Settings:
    from meshwright.core.settings import load_settings

    return load_settings(Path())

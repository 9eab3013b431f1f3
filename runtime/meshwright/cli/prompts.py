"""`mesh prompts`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from meshwright.cli.options import json_option


@click.group(no_args_is_help=False)
def prompts() -> None:
    """Look after the prompt files."""


@prompts.command()
@json_option
def check(as_json: bool) -> int:
    """Check the prompt files: what cannot be read, or would fail when an agent runs.

    Also names each agent whose prompt file is missing. Exit status 1 if anything is wrong.
    """
    from meshwright.agents.loader import project_file
    from meshwright.cli.declared import declared_agents
    from meshwright.prompts import PromptProblem, Prompts
    from meshwright.settings import load_settings

    project = Path.cwd()
    settings = load_settings(project)
    declared = declared_agents(project_file(project, settings.actors_dir))
    literal = {name: brought for name, brought in declared.brought.items() if brought.text}
    known = Prompts(project_file(project, settings.prompt_dir), brought=literal)
    names = {*known.names(), *declared.brought}
    problems = known.check()
    for agent in declared.agents:
        prompt = agent.metadata["prompt"]
        if prompt not in names:
            path = str(known.directory / f"{prompt}.prompt")
            problems.append(PromptProblem(path, None, f"{path}: {agent.agent_id} has no prompt", "write it"))
    if declared.note:
        click.echo(f"mesh: note: {declared.note}", err=True)
    if as_json:
        click.echo(json.dumps([asdict(problem) for problem in problems], indent=2))
    else:
        click.echo("\n".join(map(str, problems)) or f"{counted(len(names))} checked, no problems.")
    return 1 if problems else 0


def counted(prompts: int) -> str:
    """A number of prompts in words."""
    return "1 prompt" if prompts == 1 else f"{prompts} prompts"

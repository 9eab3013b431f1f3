"""`mesh agents` and `mesh prompts`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.connect import running_mesh
from meshwright.cli.options import json_option, mesh_options

if TYPE_CHECKING:
    from meshwright.cli.declared import Declared
    from meshwright.cli.output import Document
    from meshwright.settings import Settings


@click.command()
@json_option
@mesh_options
def agents(as_json: bool, url: str | None, data: Path | None) -> None:
    """List agents with their capabilities and status."""
    from meshwright.cli.output import documents, echo_json
    from meshwright.settings import load_settings

    async def find() -> list[Document]:
        chosen = url or load_settings(Path(), data_dir=data)
        async with running_mesh(chosen) as mesh:
            if mesh is not None:
                return documents(await mesh.client.agents())
        assert not isinstance(chosen, str)
        return _not_running(chosen)

    found = asyncio.run(find())
    if as_json:
        echo_json(found)
    else:
        click.echo(_table(found))


def _not_running(settings: Settings) -> list[Document]:
    """The agents that would register, read from their files."""
    from meshwright.cli.output import document

    unseen = {"status": "not running", "last_seen": None}
    return [{**document(agent), **unseen} for agent in _declared(settings).agents]


def _declared(settings: Settings) -> Declared:
    from meshwright.cli.declared import declared_agents

    declared = declared_agents(settings)
    if declared.note:
        click.echo(f"mesh: note: {declared.note}", err=True)
    return declared


def _table(found: list[Document]) -> str:
    from meshwright.cli.output import local_time, table

    rows = [
        [
            agent["agent_id"],
            agent["status"] if agent.get("healthy", True) else "unhealthy",
            local_time(agent.get("last_seen")),
            agent.get("problem") or _abilities(agent),
        ]
        for agent in found
    ]
    return table(["agent", "status", "last seen", "can do"], rows)


def _abilities(agent: Document) -> str:
    if agent.get("kind") == "system":
        return "(part of the mesh)"
    return ", ".join(_ability(capability) for capability in agent.get("capabilities", []))


def _ability(capability: Document) -> str:
    weight = capability.get("weight", 1)
    marks = ["preferred"] if capability.get("preferred") else []
    marks += [f"{weight:g}"] if weight != 1 else []
    return f"{capability['name']} ({', '.join(marks)})" if marks else capability["name"]


@click.group(no_args_is_help=False)
def prompts() -> None:
    """Check the prompt files."""


@prompts.command()
@json_option
def check(as_json: bool) -> int:
    """Check the prompt files: what cannot be read, or would fail when an agent runs.

    Also names each agent whose prompt file is missing. Exit status 1 if anything is wrong.
    """
    from meshwright.agents.loader import project_file
    from meshwright.prompts import PromptProblem, Prompts
    from meshwright.settings import load_settings

    settings = load_settings(Path())
    declared = _declared(settings)
    literal = {name: brought for name, brought in declared.brought.items() if brought.text}
    known = Prompts(project_file(Path.cwd(), settings.prompts.dir), brought=literal)
    names = {*known.names(), *declared.brought}
    problems = known.check()
    for agent in declared.agents:
        prompt = agent.metadata["prompt"]
        if prompt not in names:
            path = str(known.directory / f"{prompt}.prompt")
            problems.append(PromptProblem(path, None, f"{path}: {agent.agent_id} has no prompt", "write it"))
    counted = "1 prompt" if len(names) == 1 else f"{len(names)} prompts"
    if as_json:
        click.echo(json.dumps([asdict(problem) for problem in problems], indent=2))
    else:
        click.echo("\n".join(map(str, problems)) or f"{counted} checked, no problems.")
    return 1 if problems else 0

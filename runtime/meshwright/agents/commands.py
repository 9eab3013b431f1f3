"""`mesh agents` and `mesh prompts`: the agents of a mesh or a project, and the versions of prompts in git."""

from __future__ import annotations

import asyncio
import difflib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.agents.display import AGENTS
from meshwright.agents.event_types import code_changed
from meshwright.console.connect import Connection, running_mesh, say_asked, talk
from meshwright.console.nouns import Noun, completes, resource_group
from meshwright.console.options import Target, json_option, limit_option, mesh_options
from meshwright.console.output import document, echo, echo_json, for_terminal, labelled, show, styled
from meshwright.console.project import DeclaredAgents, declared_agents, require_trust
from meshwright.core.display import Column, Document, local_time
from meshwright.core.errors import NotFound, nearest
from meshwright.core.schema import described_fields

if TYPE_CHECKING:
    from meshwright.agents.prompts.foreign_text import Format
    from meshwright.agents.prompts.history import PromptHistory, Version
    from meshwright.core.messages import TaskStatus
    from meshwright.core.settings import Settings
    from meshwright.engine.events.tasks import TaskSummary

_BEGUN: tuple[TaskStatus, ...] = ("running", "waiting")
_MAX_TASKS = 10_000
_COLOURS = {"+": "green", "-": "red", "@": "cyan"}
_COLUMNS = (
    Column("version", "version"),
    Column("commit", "commit"),
    Column("when", "at", local_time),
    Column("author", "author", cut=2),
    Column("change", "subject", cut=1),
)


def _settings(data: Path | None = None) -> Settings:
    from meshwright.core.settings import load_settings

    return load_settings(Path(), data_dir=data)


def _declared(settings: Settings) -> DeclaredAgents:
    declared = declared_agents(settings)
    if declared.unknown:
        what = "what these declare is known only once they run, and a reading command runs nothing"
        click.echo(f"mesh: note: {what}: {', '.join(map(str, declared.unknown))}", err=True)
    return declared


def _all_agents(target: Target) -> list[Document]:
    """The agents of the mesh that runs, else those that the project declares."""

    async def find() -> list[Document]:
        chosen = target.url or _settings(target.data)
        async with running_mesh(chosen, tenant=target.tenant) as mesh:
            if mesh is not None:
                say_asked(mesh.where)
                return await mesh.client.items(AGENTS.path)
        assert not isinstance(chosen, str)
        unseen = {"status": "not running", "last_seen": None}
        return [{**document(agent), **unseen} for agent in _declared(chosen).agents]

    return asyncio.run(find())


agents = resource_group(AGENTS, _all_agents)


@agents.command("show")
@click.argument("agent_id", metavar="AGENT", shell_complete=completes("agent"))
@json_option
@mesh_options
def _show_agent(target: Target, agent_id: str, as_json: bool) -> None:
    """Show one agent: its status, its prompt, what it can do, and the fields of payloads that it takes."""
    by_id = {agent["agent_id"]: agent for agent in _all_agents(target)}
    if agent_id not in by_id:
        likely = nearest(agent_id, by_id)
        remedy = f"did you mean: mesh agents show {likely}" if likely else "mesh agents lists those there are"
        raise NotFound(f"No agent {agent_id!r} is registered", remedy=remedy, field="agent_id")
    agent = by_id[agent_id]
    rows = [(column.head, column.cell(agent)) for column in AGENTS.columns if column.field != "capabilities"]
    about = [(name, value) for name, value in (agent.get("metadata") or {}).items() if isinstance(value, str)]
    states = (agent.get("metadata") or {}).get("toolsets") or {}
    toolsets = [("toolset", f"{name}: {state}") for name, state in states.items()]
    takes = [
        ("payload", f"{capability['name']}: {line}")
        for capability in agent["capabilities"]
        for line in described_fields(capability.get("input_schema"))
    ]
    page = labelled(row for row in (*rows, *about, *toolsets, *takes) if row[1])
    echo(agent, page, as_json=as_json)


@agents.command("check")
@mesh_options
def _check_code(target: Target) -> int:
    """Check whether open tasks began with other code than the agents of this folder have.

    Loads the agents and starts none. Exit status 1 if there are such tasks: they go on with the new code
    where it asks for the same steps.
    """
    from meshwright.agents.loader import hash_code
    from meshwright.mesh.app import load_agents

    settings = _settings()
    require_trust(settings)
    loaded = load_agents(settings, Path.cwd())
    now = {agent.agent_id: hash_code(agent) for agent in loaded}

    async def find(mesh: Connection) -> list[TaskSummary]:
        lists = [await mesh.client.tasks(status=status, limit=_MAX_TASKS) for status in _BEGUN]
        return [task for tasks in lists for task in tasks]

    changed = [task for task in talk(target, find) if task.code not in (None, now.get(task.agent_id or ""))]
    counts = Counter(task.agent_id or "" for task in changed)
    once = Counter(task.agent_id or "" for task in changed if task.once)
    lines = [code_changed(agent_id, count, once[agent_id]) for agent_id, count in counts.items()]
    click.echo("\n".join(lines) or "No open task began with other code.")
    return 1 if changed else 0


@click.group(cls=Noun)
def prompts() -> None:
    """Check prompt files, import those of other tools, show versions in git."""


@prompts.command("check")
@json_option
def _check(as_json: bool) -> int:
    """Check the prompt files: what cannot be read, or would fail when an agent runs.

    Also names each agent whose prompt file is missing. Exit status 1 if anything is wrong. Notes say what
    other tools read otherwise, and which files are not read; they change no exit status.
    """
    from meshwright.agents.loader import prompts_folder
    from meshwright.agents.prompts import Prompts

    settings = _settings()
    declared = _declared(settings)
    literal = {name: prompt for name, prompt in declared.prompts.items() if prompt.text}
    prompts = Prompts(prompts_folder(Path.cwd(), settings), in_code=literal, own=declared.variables)
    elsewhere = {*declared.prompts, *_prompts_of_packages(settings)}
    names = {*prompts.names(), *elsewhere}
    needed = {name: agent for name, agent in declared.needed.items() if name not in elsewhere}
    problems, notes = prompts.check(needed), prompts.notes()
    counted = "1 prompt" if len(names) == 1 else f"{len(names)} prompts"
    if as_json:
        fields = ("path", "line", "message", "remedy")
        kinds = ("problem", problems), ("note", notes)
        rows = [
            {"kind": kind, **{name: getattr(error, name) for name in fields}}
            for kind, errors in kinds
            for error in errors
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        lines = [*map(str, problems), *(f"note: {note}" for note in notes)]
        end = [] if problems else [f"{counted} checked, no problems."]
        click.echo("\n".join([*lines, *end]))
    return 1 if problems else 0


@prompts.command("import")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", metavar="NAME", help="The name of the prompt. Default: that of the file.")
@click.option(
    "--from",
    "format_name",
    type=click.Choice(["dotprompt", "litellm", "prompty"]),
    help="The tool that the file is of. Default: as the file looks.",
)
@click.option("--force", is_flag=True, help="Replace a prompt file of that name.")
@json_option
def _import(file: Path, name: str | None, format_name: Format | None, force: bool, as_json: bool) -> int:
    """Make a prompt file of one of dotprompt, LiteLLM or Prompty.

    Names each line that has no counterpart here. Exit status 1 if something had to be left out, or if nothing
    was written, since the text would say something else.
    """
    from meshwright.agents.prompts.foreign_prompts import import_prompt
    from meshwright.agents.settings import PromptsSettings

    settings = _settings()
    name = file.stem if name is None else name
    own = declared_agents(settings).variables.get(name) or ()
    target = settings[PromptsSettings].dir / f"{name}.prompt"
    imported = import_prompt(file, target, format_name, own, force=force)
    kinds = {"problem": imported.problems, "left out": imported.left_out, "changed": imported.changes}
    if as_json:
        fields = ("line", "message", "remedy")
        rows = [
            {"kind": kind, **{name: getattr(error, name) for name in fields}}
            for kind, errors in kinds.items()
            for error in errors
        ]
        written = str(target) if imported.text else None
        echo_json({"path": written, "from": imported.tool, "notes": rows})
    else:
        lines = [f"{kind}: {error}" for kind, errors in kinds.items() for error in errors]
        ending = f"{target} is made of {file} ({imported.tool})."
        if not imported.text:
            ending = f"Nothing was written: {file} ({imported.tool}) has what no prompt file can say."
        click.echo(for_terminal("\n".join([*lines, ending])))
    return 0 if imported.text and not imported.left_out else 1


def _prompts_of_packages(settings: Settings) -> list[str]:
    """The names of prompts that installed components bring, asked without the project's own code."""
    from meshwright.core.plugins import COMPONENTS, installed

    if not installed(COMPONENTS):
        return []
    from meshwright.agents.prompts import PromptSources
    from meshwright.mesh.app import build_mesh

    return build_mesh(settings.without_unread(), agents=()).get(PromptSources).names()


def _history(name: str) -> PromptHistory:
    """The versions of a prompt of this project. Raises NotFound, PromptError."""
    from meshwright.agents.loader import prompts_folder
    from meshwright.agents.prompts import Prompts
    from meshwright.agents.prompts.history import PromptHistory
    from meshwright.core.settings import load_settings

    folder = prompts_folder(Path.cwd(), load_settings(Path()))
    names = Prompts(folder).names()
    path = folder / f"{Path(name).name}.prompt"
    if name in names or (path.stem == name and not path.exists() and not nearest(name, names)):
        return PromptHistory(path)  # also a file that was deleted, and that git still has
    likely = nearest(name, names)
    remedy = f"did you mean {likely}? " if likely else ""
    raise NotFound(
        f"{folder} has no prompt {name!r}",
        remedy=f"{remedy}The prompt of an agent that has its text in its code has the versions of that code",
    )


def _row(version: Version) -> dict[str, str]:
    return {
        "version": version.name,
        "commit": version.revision[:12],
        "at": version.at,
        "author": version.author,
        "subject": version.subject,
    }


@prompts.command()
@click.argument("name")
@limit_option(20)
@json_option
def log(name: str, limit: int, as_json: bool) -> None:
    """List the versions of a prompt, newest first: what events, costs and traces name as NAME@VERSION."""
    rows = [_row(version) for version in _history(name).versions[:limit]]
    show(rows, _COLUMNS, as_json=as_json, empty="")


@prompts.command("show")
@click.argument("name", metavar="NAME[@VERSION]")
@json_option
def show_version(name: str, as_json: bool) -> None:
    """Print a prompt as it is now, or one of its versions, named by its digest or by a commit."""
    name, _, version_name = name.partition("@")
    history = _history(name)
    version = history.find(version_name) if version_name else history.versions[0]
    if as_json:
        echo_json({**_row(version), "digest": version.digest, "text": version.text})
    else:
        click.echo(for_terminal(version.text), nl=not version.text.endswith("\n"))


@prompts.command()
@click.argument("name")
@click.argument("older", required=False)
@click.argument("newer", required=False)
def diff(name: str, older: str | None, newer: str | None) -> None:
    """Show how a prompt changed: from the version before to the newest, or between those that you name."""
    history = _history(name)
    new = history.find(newer) if newer else history.versions[0]
    if older:
        old_name, old = (version := history.find(older)).name, version.text
    else:
        before = history.versions[history.versions.index(new) + 1 :]
        old_name, old = (before[0].name, before[0].text) if before else ("nothing", "")
    lines = difflib.unified_diff(
        old.splitlines(), new.text.splitlines(), f"{name}@{old_name}", f"{name}@{new.name}", lineterm=""
    )
    for line in lines:
        colour = _COLOURS.get(line[:1])
        click.echo(styled(for_terminal(line), fg=colour) if colour else for_terminal(line))


@prompts.command()
@click.argument("name")
def blame(name: str) -> None:
    """Show who wrote each line of a prompt, when, and in which commit."""
    click.echo(for_terminal(_history(name).blame()), nl=False)

"""`mesh agents`, `mesh prompts` and `mesh doctor`; the agents that a project declares."""

from __future__ import annotations

import ast
import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshwright.cli.connect import Connection, running_mesh, talk
from meshwright.cli.events import code_changed
from meshwright.cli.options import Target, data_option, json_option, mesh_options, require_trust, trust_option
from meshwright.cli.output import Column, Document, document, local_time, show
from meshwright.core.errors import ConfigError, MeshError, in_one_line

if TYPE_CHECKING:
    from meshwright.component import Check
    from meshwright.core.capability import Capability, Registration
    from meshwright.core.messages import TaskStatus
    from meshwright.events.tasks import TaskSummary
    from meshwright.prompts import Brought
    from meshwright.settings import Settings

_CHECK_SECONDS = 10.0
_BEGUN: tuple[TaskStatus, ...] = ("running", "waiting")
_MAX_TASKS = 10_000
_VERDICTS = {"ok": "green", "warn": "yellow", "FAIL": "red"}


def _abilities(agent: Document) -> str:
    if agent.get("problem"):
        return agent["problem"]
    if agent.get("kind") == "system":
        return "(part of the mesh)"
    return ", ".join(map(_ability, agent.get("capabilities", [])))


def _ability(capability: Document) -> str:
    weight = capability.get("weight", 1)
    marks = ["preferred"] * bool(capability.get("preferred")) + [f"{weight:g}"] * (weight != 1)
    return f"{capability['name']} ({', '.join(marks)})" if marks else capability["name"]


def _status(agent: Document) -> str:
    return agent["status"] if agent.get("healthy", True) else "unhealthy"


AGENTS = (
    Column("agent", "agent_id"),
    Column("status", write=_status),
    Column("last seen", "last_seen", local_time),
    Column("can do", write=_abilities),
)


@click.group(invoke_without_command=True)
@json_option
@mesh_options
@click.pass_context
def agents(ctx: click.Context, target: Target, as_json: bool) -> None:
    """List agents with their capabilities and status."""
    if ctx.invoked_subcommand is None:
        _list(target, as_json=as_json)


@agents.command("check")
@mesh_options
def check_code(target: Target) -> int:
    """Check whether open tasks began with other code than the agents of this folder have.

    Loads the agents and starts none. Exit status 1 if there are such tasks: they go on with the new code
    where it asks for the same steps.
    """
    from meshwright.agents.binding import code_of
    from meshwright.agents.loader import load_agents, project_file
    from meshwright.settings import load_settings

    settings = load_settings(Path())
    require_trust(settings)
    loaded = load_agents(project_file(Path.cwd(), settings.agents.dir), Path.cwd())
    now = {agent.agent_id: code_of(agent) for agent in loaded}

    async def find(mesh: Connection) -> list[TaskSummary]:
        lists = [await mesh.client.tasks(status=status, limit=_MAX_TASKS) for status in _BEGUN]
        return [task for tasks in lists for task in tasks]

    changed = [task for task in talk(target, find) if task.code not in (None, now.get(task.agent_id or ""))]
    counts = Counter(task.agent_id or "" for task in changed)
    once = Counter(task.agent_id or "" for task in changed if task.once)
    lines = [code_changed(agent_id, count, once[agent_id]) for agent_id, count in counts.items()]
    click.echo("\n".join(lines) or "No open task began with other code.")
    return 1 if changed else 0


def _list(target: Target, *, as_json: bool) -> None:
    from meshwright.settings import load_settings

    async def find() -> list[Document]:
        chosen = target.url or load_settings(Path(), data_dir=target.data)
        async with running_mesh(chosen, tenant=target.tenant) as mesh:
            if mesh is not None:
                return [document(agent) for agent in await mesh.client.agents()]
        assert not isinstance(chosen, str)
        unseen = {"status": "not running", "last_seen": None}
        return [{**document(agent), **unseen} for agent in _declared(chosen).agents]

    show(asyncio.run(find()), AGENTS, as_json=as_json, empty="there are no agents; mesh doctor says more")


@click.group(no_args_is_help=False)
def prompts() -> None:
    """Check the prompt files."""


@prompts.command()
@json_option
def check(as_json: bool) -> int:
    """Check the prompt files: what cannot be read, or would fail when an agent runs.

    Also names each agent whose prompt file is missing. Exit status 1 if anything is wrong.
    """
    from meshwright.agents.loader import prompts_folder
    from meshwright.prompts import Prompts
    from meshwright.settings import load_settings

    settings = load_settings(Path())
    declared = _declared(settings)
    literal = {name: brought for name, brought in declared.brought.items() if brought.text}
    known = Prompts(prompts_folder(Path.cwd(), settings), brought=literal)
    names = {*known.names(), *declared.brought}
    needed = {agent.metadata["prompt"]: agent.agent_id for agent in declared.agents}
    problems = known.check({name: agent for name, agent in needed.items() if name not in declared.brought})
    counted = "1 prompt" if len(names) == 1 else f"{len(names)} prompts"
    if as_json:
        fields = ("path", "line", "message", "remedy")
        rows = [{name: getattr(problem, name) for name in fields} for problem in problems]
        click.echo(json.dumps(rows, indent=2))
    else:
        click.echo("\n".join(map(str, problems)) or f"{counted} checked, no problems.")
    return 1 if problems else 0


@click.command()
@data_option
@trust_option
def doctor(data: Path | None) -> int:
    """Check the project and what its components depend on.

    Reads the settings, loads the agents and starts nothing. Exit status 1 if anything is wrong.
    """
    from meshwright.settings import load_settings

    settings = load_settings(Path(), data_dir=data)
    require_trust(settings)
    failed = asyncio.run(_run_checks(settings))
    click.echo("No problems." if not failed else f"{failed} of the checks failed.")
    return 1 if failed else 0


async def _run_checks(settings: Settings) -> int:
    """Show what each check finds; returns how many failed."""
    from meshwright.app import build_mesh
    from meshwright.component import Component

    mesh = build_mesh(settings)
    running = await _running_models(settings)
    components = [component for component in mesh.components if isinstance(component, Component)]
    checks = [check for component in components for check in component.checks()]
    if running is not None:  # it may have been started with other settings than this shell has
        checks = [running if check.name == running.name else check for check in checks]
    results = await asyncio.gather(*map(_run_check, checks))
    for check, (verdict, sentence) in zip(checks, results, strict=True):
        _show(verdict, check.name, sentence)
    for warning in mesh.warnings:
        _show("warn", "mesh", warning)
    await mesh.stop(drain_seconds=0)
    return sum(verdict == "FAIL" for verdict, _ in results)


async def _running_models(settings: Settings) -> Check | None:
    """What answers in the mesh that runs on the data; None without one, or where it does not say."""
    from meshwright.component import Check

    async with running_mesh(settings) as running:
        if running is None:
            return None
        try:
            status = await running.client.status()
        except MeshError:  # its keys are not ours
            return None
    refused = [deployment for deployment in status.deployments if deployment.status is not None]

    async def ask() -> str:
        if refused:
            why = "; ".join(f"{one.deployment} is refused with {one.status}: {one.reason}" for one in refused)
            raise ConfigError(why, remedy="Mend the key, the credit or the model's name: mesh models test")
        return f"{status.model}, in the mesh that runs at {running.where}; mesh models test calls it"

    return None if status.model is None else Check("models", ask)


async def _run_check(check: Check) -> tuple[str, str]:
    """The verdict of a check, and its sentence."""
    limit = asyncio.timeout(_CHECK_SECONDS)
    try:
        async with limit:
            return "ok", await check.ask()
    except MeshError as error:
        return "FAIL", in_one_line(error.message, error.remedy)
    except Exception as error:  # noqa: BLE001 - a component's own code may raise anything
        if limit.expired():
            return "FAIL", f"No answer within {_CHECK_SECONDS:g} s; see whether what it depends on runs"
        return "FAIL", f"{type(error).__name__}: {error}"


def _show(verdict: str, name: str, sentence: str) -> None:
    styled = click.style(f"{verdict:<4}", fg=_VERDICTS[verdict])
    click.echo(f"{styled}  {name:<10}  {' '.join(sentence.split())}")


def _declared(settings: Settings) -> Declared:
    declared = declared_agents(settings)
    if declared.unknown:
        what = "what these declare is known only once they run, and a reading command runs nothing"
        click.echo(f"mesh: note: {what}: {', '.join(map(str, declared.unknown))}", err=True)
    return declared


@dataclass
class Declared:
    """What the files of a folder declare, and those files that say more only when they run."""

    agents: list[Registration] = field(default_factory=list)
    brought: dict[str, Brought] = field(default_factory=dict)
    unknown: list[Path] = field(default_factory=list)


def declared_agents(settings: Settings) -> Declared:
    """Read the agents of a project's files and packages, by file name. Runs and imports nothing of them.

    What a file computes stays unknown: agents made by a call, or with attributes that are no literals.
    """
    from meshwright.agents.loader import installed_agents, project_file
    from meshwright.prompts import Brought

    folder = project_file(Path(), settings.agents.dir)
    found = Declared()
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else ():
        if not any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts[:-1]):
            _read_file(path, found)
    for agent in installed_agents():  # their packages are trusted: somebody installed them
        found.agents.append(agent.registration())
        if agent.prompt_text:
            found.brought[agent.prompt] = Brought(agent.prompt_text, agent.__name__, agent.__module__)
    found.agents.sort(key=lambda agent: agent.agent_id)
    return found


def _read_file(path: Path, found: Declared) -> None:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        found.unknown.append(path)
        return
    classes = [(node, _attributes(node)) for node in tree.body if isinstance(node, ast.ClassDef)]
    known = [_read_agent(path, node, has, found) for node, has in classes if "agent_id" in has]
    is_helper = path.name.startswith("_")
    if not all(known) or not (known or is_helper):
        found.unknown.append(path)


def _read_agent(path: Path, node: ast.ClassDef, attributes: dict[str, ast.expr], found: Declared) -> bool:
    """Take in what a class declares; whether all of it that matters here is literal."""
    from meshwright.core.capability import Registration
    from meshwright.prompts import Brought

    try:
        agent_id = ast.literal_eval(attributes["agent_id"])
        prompt = ast.literal_eval(attributes["prompt"]) if "prompt" in attributes else agent_id
        capabilities = tuple(_capabilities(attributes.get("capabilities")))
        described = {"description": (ast.get_docstring(node) or "").partition("\n")[0], "prompt": prompt}
        agent = Registration(agent_id=agent_id, name=node.name, capabilities=capabilities, metadata=described)
    except (ValueError, TypeError):
        return False
    found.agents.append(agent)
    if "prompt_text" not in attributes:
        return True
    try:
        text = ast.literal_eval(attributes["prompt_text"])
    except ValueError:
        text = None
    found.brought[prompt] = Brought(text if isinstance(text, str) else "", node.name, str(path))
    return isinstance(text, str)


def _attributes(node: ast.ClassDef) -> dict[str, ast.expr]:
    """What the body of a class assigns to names."""
    assigned: dict[str, ast.expr] = {}
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            assigned.update(dict.fromkeys(names, statement.value))
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assigned |= {statement.target.id: statement.value} if statement.value else {}
    return assigned


def _capabilities(node: ast.expr | None) -> Iterator[Capability]:
    """The capabilities that a literal names. Raises ValueError for anything else."""
    from meshwright.core.capability import Capability

    if node is not None and not isinstance(node, ast.Tuple | ast.List):
        raise ValueError("no literal")
    for call in node.elts if node else ():
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "Capability":
            raise ValueError("no literal")
        named: dict[str, Any] = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
        yield Capability(*map(ast.literal_eval, call.args), **named)

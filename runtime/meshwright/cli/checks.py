"""The commands that look at the project: its agents, prompts, webhooks, broker rights, and `mesh doctor`."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.agents.display import AGENTS
from meshwright.agents.event_types import code_changed
from meshwright.cli import prompt_history
from meshwright.cli.completion import named
from meshwright.cli.connect import Connection, running_mesh, say_asked, talk
from meshwright.cli.nouns import Noun, group_of
from meshwright.cli.options import Target, data_option, json_option, mesh_options
from meshwright.cli.output import document, echo_json, labelled, styled, terminal_width, wrapped
from meshwright.cli.project import DeclaredAgents, declared_agents, require_trust, trust_option
from meshwright.cli.timeline import drawing
from meshwright.core.display import Document, ahead
from meshwright.core.errors import ConfigError, MeshError, NotFound, in_one_line, nearest
from meshwright.core.schema import described_fields
from meshwright.edges.mqtt.settings import MqttSettings

if TYPE_CHECKING:
    from meshwright.component import Check
    from meshwright.core.messages import TaskStatus
    from meshwright.events.status import MeshStatus
    from meshwright.events.tasks import TaskSummary
    from meshwright.settings import Settings

_CHECK_SECONDS = 10.0
_SENTENCE_AT = 18  # the column, behind verdict and name
_BEGUN: tuple[TaskStatus, ...] = ("running", "waiting")
_MAX_TASKS = 10_000
_VERDICTS = {"ok": "green", "warn": "yellow", "FAIL": "red"}


def _settings(data: Path | None = None) -> Settings:
    from meshwright.settings import load_settings

    return load_settings(Path(), data_dir=data)


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


agents = group_of(AGENTS, _all_agents)


@agents.command("show")
@click.argument("agent_id", metavar="AGENT", shell_complete=named("agent"))
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
    if as_json:
        echo_json(agent)
        return
    rows = [(column.head, column.cell(agent)) for column in AGENTS.columns if column.field != "capabilities"]
    about = [(name, value) for name, value in (agent.get("metadata") or {}).items() if isinstance(value, str)]
    states = (agent.get("metadata") or {}).get("toolsets") or {}
    toolsets = [("toolset", f"{name}: {state}") for name, state in states.items()]
    takes = [
        ("payload", f"{capability['name']}: {line}")
        for capability in agent["capabilities"]
        for line in described_fields(capability.get("input_schema"))
    ]
    click.echo(labelled(row for row in (*rows, *about, *toolsets, *takes) if row[1]))


@agents.command("check")
@mesh_options
def _check_code(target: Target) -> int:
    """Check whether open tasks began with other code than the agents of this folder have.

    Loads the agents and starts none. Exit status 1 if there are such tasks: they go on with the new code
    where it asks for the same steps.
    """
    from meshwright.agents.loader import code_of
    from meshwright.agents.shipped import project_agents

    settings = _settings()
    require_trust(settings)
    loaded = project_agents(settings, Path.cwd())
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


@click.group(cls=Noun)
def prompts() -> None:
    """Check the prompt files, and show their versions in git."""


prompt_history.add_to(prompts)


@prompts.command("check")
@json_option
def _check(as_json: bool) -> int:
    """Check the prompt files: what cannot be read, or would fail when an agent runs.

    Also names each agent whose prompt file is missing. Exit status 1 if anything is wrong.
    """
    from meshwright.agents.loader import prompts_folder
    from meshwright.prompts import Prompts

    settings = _settings()
    declared = _declared(settings)
    literal = {name: prompt for name, prompt in declared.prompts.items() if prompt.text}
    prompts = Prompts(prompts_folder(Path.cwd(), settings), in_code=literal, own=declared.variables)
    elsewhere = {*declared.prompts, *_prompts_of_packages(settings)}
    names = {*prompts.names(), *elsewhere}
    needed = {name: agent for name, agent in declared.needed.items() if name not in elsewhere}
    problems = prompts.check(needed)
    counted = "1 prompt" if len(names) == 1 else f"{len(names)} prompts"
    if as_json:
        fields = ("path", "line", "message", "remedy")
        rows = [{name: getattr(problem, name) for name in fields} for problem in problems]
        click.echo(json.dumps(rows, indent=2))
    else:
        click.echo("\n".join(map(str, problems)) or f"{counted} checked, no problems.")
    return 1 if problems else 0


def _prompts_of_packages(settings: Settings) -> list[str]:
    """The names of prompts that installed components bring, asked without the project's own code."""
    from meshwright.core.plugins import COMPONENTS, installed

    if not installed(COMPONENTS):
        return []
    from meshwright.app import build_mesh
    from meshwright.prompts import PromptSources

    return build_mesh(settings.without_unread(), agents=()).get(PromptSources).names()


@click.command()
@data_option
@trust_option
def doctor(data: Path | None) -> int:
    """Check the project and what its components depend on.

    Reads the settings, loads the agents and starts nothing. Exit status 1 if anything is wrong.
    """
    settings = _settings(data)
    require_trust(settings)
    failed = asyncio.run(_run_checks(settings))
    click.echo("No problems." if not failed else f"{failed} of the checks failed.")
    return 1 if failed else 0


async def _run_checks(settings: Settings) -> int:
    """Show what each check finds; returns how many failed."""
    from meshwright.app import build_mesh
    from meshwright.component import Component

    verdict, sentence, running = await _ask_running(settings)
    _show(verdict, "running", sentence)
    missing = settings.unread_secrets
    for error in missing:
        _show("FAIL", "secrets", in_one_line(error.message, error.remedy))
    left_out = {error.field for error in missing}
    try:
        mesh = build_mesh(settings.without_unread())
    except ConfigError as error:  # perhaps one of those secrets
        if error not in missing:
            _show("FAIL", "settings", in_one_line(error.message, error.remedy))
        return len({*missing, error})
    components = [component for component in mesh.components if isinstance(component, Component)]
    checks = [check for component in components for check in component.checks()]
    checks = [check for check in checks if check.name not in left_out]
    if running is not None:  # it may have been started with other settings than this shell has
        checks = [running, *(check for check in checks if check.name != running.name)]
    with drawing() as canvas:
        canvas.doing(f"asking {', '.join(check.name for check in checks)}")
        results = await asyncio.gather(*map(_run_check, checks))
    for check, (verdict, sentence) in zip(checks, results, strict=True):
        _show(verdict, check.name, sentence)
    sentences = {sentence for _, sentence in results}
    for warning in mesh.warnings:
        if warning not in sentences:
            _show("warn", "mesh", warning)
    await mesh.stop(drain_seconds=0)
    return len(missing) + sum(verdict == "FAIL" for verdict, _ in results)


async def _ask_running(settings: Settings) -> tuple[str, str, Check | None]:
    """Ask the mesh that runs on the data: a verdict and a sentence on it, and a check of its model.

    Without one, or where it names no model, the check is None.
    """
    from meshwright.component import Check

    async with running_mesh(settings) as running:
        if running is None:
            return (
                "ok",
                f"no mesh runs on {settings.data_dir}; the rest is what mesh up would start here",
                None,
            )
        try:
            status = await running.client.status()
        except MeshError as error:  # its keys are not ours
            return "warn", f"the mesh at {running.where} answers: {error.message}", None

    async def ask() -> str:
        if trouble := _trouble_of_models(status):
            raise trouble
        return f"{status.model}, in the mesh that runs at {running.where}; mesh models test calls it"

    counted = f"{sum(status.tasks.values()):,} open tasks"
    sentence = f"the mesh at {running.where}, {counted}; settings and agents below are those of this folder"
    return "ok", sentence, None if status.model is None else Check("models", ask)


def _trouble_of_models(status: MeshStatus) -> MeshError | None:
    """The deployments that a mesh leaves alone, or the tasks that wait for one that it tries again."""
    from meshwright.models.errors import ModelUnavailable

    cold, texts = status.deployments, list[str]()
    for one in cold:
        what = f"is refused with {one.status}" if one.status else f"gets no call, next try {ahead(one.until)}"
        texts.append(f"{one.deployment} {what}: {one.reason}")
    for wait in status.waits:  # its time may be over while nothing has called it since
        if wait.kind == "provider" and not cold:
            waits = f"tasks wait for a provider ({wait.count:,}), next try {ahead(wait.next_due)}"
            texts.append(f"{waits}: {wait.reason}")
    if not texts:
        return None
    remedy = "Tasks go on by themselves; mesh models test calls it now"
    if any(one.status for one in cold):
        remedy = "Mend the key, the credit or the model's name: mesh models test"
    return ModelUnavailable("; ".join(texts), remedy=remedy)


async def _run_check(check: Check) -> tuple[str, str]:
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
    word = styled(f"{verdict:<4}", fg=_VERDICTS[verdict])
    text = " ".join(sentence.split())
    text = text if terminal_width() is None else wrapped(text, indent=_SENTENCE_AT)
    click.echo(f"{word}  {name:<10}  {text}")


def _declared(settings: Settings) -> DeclaredAgents:
    declared = declared_agents(settings)
    if declared.unknown:
        what = "what these declare is known only once they run, and a reading command runs nothing"
        click.echo(f"mesh: note: {what}: {', '.join(map(str, declared.unknown))}", err=True)
    return declared


@click.group(cls=Noun, bare="project")
def check() -> None:
    """Check the project, its prompts, its agents' code.

    `mesh check` is `mesh check project`.
    """


for verb, command in {"project": doctor, "prompts": _check, "code": _check_code}.items():
    check.add_command(command, verb)


@click.group(cls=Noun)
def mqtt() -> None:
    """Print the rights of clients for the MQTT broker."""


@mqtt.command("acl")
def _acl() -> None:
    """Print the acl_file of Mosquitto for [mqtt] and [[mqtt.clients]].

    Each client publishes below its own name, and reads its own replies and what its roles let it see of its
    tenant. All else at the broker is closed to clients and to the mesh's own user.
    """
    from meshwright.identity.broker_rights import broker_acl, lets_anybody_in

    settings = _settings()
    if lets_anybody_in(settings):
        click.echo(
            "mesh: warning: mqtt.clients is empty: clients that do not log in may do everything; "
            "use this on loopback alone",
            err=True,
        )
    click.echo("\n".join(broker_acl(settings, settings[MqttSettings].username or "mesh")))

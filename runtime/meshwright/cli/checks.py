"""The commands that check the project and what it depends on: `mesh doctor` and `mesh check`; `mesh mqtt`."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.agents.commands import agents, prompts
from meshwright.console.connect import running_mesh
from meshwright.console.nouns import Noun
from meshwright.console.options import data_option
from meshwright.console.output import styled, terminal_width, wrapped
from meshwright.console.project import require_trust, trust_option
from meshwright.console.timeline import drawing
from meshwright.core.display import age, ahead, next_try
from meshwright.core.errors import ConfigError, HostError, MeshError, in_one_line
from meshwright.core.part import Caution
from meshwright.edges.mqtt.settings import MqttSettings

if TYPE_CHECKING:
    from meshwright.core.settings import Settings
    from meshwright.engine.events.status import BrokerStatus, MeshStatus
    from meshwright.mesh.components import Check

_SENTENCE_AT = 18  # the column, behind verdict and name
_SIDECARS_VARIABLE = "APP_PORT"
_VERDICTS = {"ok": "green", "warn": "yellow", "FAIL": "red"}


def _settings(data: Path | None = None) -> Settings:
    from meshwright.core.settings import load_settings

    return load_settings(Path(), data_dir=data)


@click.command()
@click.option(
    "--live",
    is_flag=True,
    help="Also call each agent's model once, within its budgets, and say what a task costs.",
)
@data_option
@trust_option
def doctor(data: Path | None, *, live: bool) -> int:
    """Check the project and what its components depend on.

    Reads the settings, loads the agents and starts nothing. With --live each agent's model answers two words,
    which is charged to the agent; without a mesh that runs, one in this process asks it and begins no task.
    Exit status 1 if anything is wrong.
    """
    settings = _settings(data)
    require_trust(settings)
    failed = asyncio.run(_run_checks(settings))
    if live:
        failed += asyncio.run(_try_agents(settings))
    click.echo("No problems." if not failed else f"{failed} of the checks failed.")
    return 1 if failed else 0


async def _run_checks(settings: Settings) -> int:
    """Show what each check finds; returns how many failed."""
    from meshwright.mesh.app import RUNTIMES, build_mesh
    from meshwright.mesh.components import Check, Component

    verdict, sentence, of_running, is_on_dapr = await _ask_running(settings)
    if is_on_dapr:  # as an option of mesh up has said
        settings = settings.having(store="dapr")
    _show(verdict, "running", sentence)
    missing = settings.unread_secrets
    for error in missing:
        _show("FAIL", "secrets", in_one_line(error.message, error.remedy))
    left_out = {error.field for error in missing}
    # Nothing is started: the store of a mesh on Dapr would ask for its sidecar, which is not here.
    is_apart = settings.store == "dapr" and _SIDECARS_VARIABLE not in os.environ
    try:
        mesh = build_mesh(settings.without_unread(), runtime=RUNTIMES["memory"] if is_apart else None)
    except ConfigError as error:  # perhaps one of those secrets
        if error not in missing:
            _show("FAIL", "settings", in_one_line(error.message, error.remedy))
        return len({*missing, error})
    components = [component for component in mesh.components if isinstance(component, Component)]
    checks = [check for component in components for check in component.checks()]
    checks = [check for check in checks if check.name not in left_out]
    if settings.store not in ("dapr", "memory"):
        checks.append(Check("proved", partial(_describe_proof, settings)))
    if (url := settings[MqttSettings].url) is not None:
        checks.append(Check("proved", partial(_describe_broker_proof, settings.data_dir, url)))
    names = {check.name for check in of_running}
    # A running mesh may have been started with other settings than this shell has.
    checks = [*of_running, *(check for check in checks if check.name not in names)]
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


async def _try_agents(settings: Settings) -> int:
    """Show whether each agent's model answers; returns how many do not."""
    from meshwright.cli.live import try_agents

    with drawing() as canvas:
        canvas.doing("calling the models of the agents")
        try:
            answers = await try_agents(settings.without_unread())
        except MeshError as error:
            _show("FAIL", "live", f"No agent was tried: {in_one_line(error.message, error.remedy)}")
            return 1
    for answer in answers:
        _show(answer.verdict, "live", answer.sentence)
    return sum(answer.verdict == "FAIL" for answer in answers)


async def _ask_running(settings: Settings) -> tuple[str, str, list[Check], bool]:
    """Ask the mesh that runs on the data: a verdict and a sentence on it, checks of what it reports, and
    whether it is on Dapr."""
    from meshwright.mesh.components import Check
    from meshwright.models.last_tests import describe_model
    from meshwright.parts.stack.machine import front_folder

    async with running_mesh(settings) as running:
        if running is None:
            return (
                "ok",
                f"no mesh runs on {settings.data_dir}; the rest is what mesh up would start here",
                [],
                False,
            )
        is_on_dapr = front_folder(settings.data_dir) is not None
        try:
            status = await running.client.status()
        except MeshError as error:  # its keys are not ours
            return "warn", f"the mesh at {running.where} answers: {error.message}", [], is_on_dapr

    async def ask_models() -> str:
        if trouble := _trouble_of_models(status):
            raise trouble
        assert status.model is not None
        where = f", in the mesh that runs at {running.where}"
        if status.model.startswith("offline"):
            return f"{status.model}{where}"
        return describe_model(status.model, settings.data_dir, where)

    counted = f"{sum(status.tasks.values()):,} open tasks"
    sentence = f"the mesh at {running.where}, {counted}; settings and agents below are those of this folder"
    checks = [] if status.model is None else [Check("models", ask_models)]
    checks += [Check("broker", partial(_ask_broker, broker)) for broker in status.brokers]
    return "ok", sentence, checks, is_on_dapr


async def _describe_proof(settings: Settings) -> str:
    """When `mesh prove` last ran on the store of the settings, and whether all held."""
    from meshwright.parts.proving.history import describe_last_run, store_name

    database = settings.database.get_secret_value() if settings.database is not None else None
    return describe_last_run(settings.data_dir, store_name(database))


async def _describe_broker_proof(folder: Path, url: str) -> str:
    """When `mesh prove` last ran on the broker of the settings, and whether all held."""
    from meshwright.parts.proving.history import describe_last_run

    return describe_last_run(folder, url, "broker", f"mesh prove --broker {url}")


async def _ask_broker(broker: BrokerStatus) -> str:
    """Whether the running mesh is connected to its MQTT broker, and what it has noticed there."""
    if not broker.connected:
        raise HostError(f"The running mesh is cut off from {broker.broker}: {broker.reason}")
    notes = [*broker.limits]
    if broker.session_lost_at is not None:
        notes.append(f"The broker lost messages {age(broker.session_lost_at.isoformat())} ago")
    sentence = f"the running mesh is connected to {broker.broker}"
    return Caution(f"{sentence}. {'. '.join(notes)}") if notes else sentence


def _trouble_of_models(status: MeshStatus) -> MeshError | None:
    """The deployments that a mesh leaves alone, or the tasks that wait for one that it tries again."""
    from meshwright.models.errors import ModelUnavailable

    cold, texts = status.deployments, list[str]()
    for one in cold:
        what = (
            f"is refused with {one.status}"
            if one.status
            else f"is left alone, next try {next_try(one.until)}"
        )
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
    limit = asyncio.timeout(check.seconds)
    try:
        async with limit:
            sentence = await check.ask()
            return "warn" if isinstance(sentence, Caution) else "ok", sentence
    except MeshError as error:
        return "FAIL", in_one_line(error.message, error.remedy)
    except Exception as error:  # noqa: BLE001 - a component's own code may raise anything
        if limit.expired():
            return "FAIL", f"No answer within {check.seconds:g} s; see whether what it depends on runs"
        return "FAIL", f"{type(error).__name__}: {error}"


def _show(verdict: str, name: str, sentence: str) -> None:
    word = styled(f"{verdict:<4}", fg=_VERDICTS[verdict])
    text = " ".join(sentence.split())
    text = text if terminal_width() is None else wrapped(text, indent=_SENTENCE_AT)
    click.echo(f"{word}  {name:<10}  {text}")


@click.group(cls=Noun, bare="project")
def check() -> None:
    """Check the project, its prompts, its agents' code.

    `mesh check` is `mesh check project`.
    """


check.add_command(doctor, "project")
check.add_command(prompts.commands["check"], "prompts")
check.add_command(agents.commands["check"], "code")


@click.group(cls=Noun)
def mqtt() -> None:
    """Print the rights of clients for the MQTT broker."""


@mqtt.command("acl")
def _acl() -> None:
    """Print the acl_file of Mosquitto for [mqtt] and [[mqtt.clients]].

    Each client publishes below its own name, and reads its own replies and what its roles let it see of its
    tenant. All else at the broker is closed to clients and to the mesh's own user.
    """
    from meshwright.mesh.identity.broker_rights import broker_acl, lets_anybody_in

    settings = _settings()
    if lets_anybody_in(settings):
        click.echo(
            "mesh: warning: mqtt.clients is empty: clients that do not log in may do everything; "
            "use this on loopback alone",
            err=True,
        )
    click.echo("\n".join(broker_acl(settings, settings[MqttSettings].username or "mesh")))

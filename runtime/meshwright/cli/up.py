"""`mesh up`, and `mesh worker`, which it starts for a mesh on Dapr."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from socket import create_server, gethostname
from typing import TYPE_CHECKING, Any

import click

from meshwright.agents.settings import AgentsSettings
from meshwright.console.connect import announced, report_problems, with_admin_token
from meshwright.console.options import WholeNumber, data_option, database_option, log_option
from meshwright.console.process import STOP_SIGNALS, on_stop_signals, say
from meshwright.console.project import require_trust, trust_option
from meshwright.core.clock import unless
from meshwright.edges.http.settings import HttpSettings
from meshwright.edges.mqtt.settings import MqttSettings
from meshwright.engine.sql.folder import SECRET_KEY, own_folder
from meshwright.mesh.identity.settings import SecretsSettings
from meshwright.parts.page.settings import PageSettings

if TYPE_CHECKING:
    from socket import socket

    from meshwright.agents.agent import Agent
    from meshwright.core.settings import Settings
    from meshwright.engine.work import Worker
    from meshwright.mesh.mesh import Mesh

WHOLE_MESH = "mesh"
MODELS_APP, MODELS_PORT = "llm-service", 8002
_PRIVATE_UMASK = 0o077
"""Files of this process are for its user alone: data, logs, and those that the tools of agents make."""
_Serving = Callable[["Mesh", "socket", Callable[[bool], None]], Awaitable[None]]
"""Serves a mesh on a socket until it is stopped, and says when it is ready, and whether it speaks TLS."""


@click.command()
@click.option(
    "--port", type=WholeNumber(0, 65_535), metavar="N", help="0 takes any free one (default: 8000)."
)
@click.option(
    "--listen",
    metavar="ADDRESS",
    help="Address to listen on (default: 127.0.0.1). 0.0.0.0 lets other machines in: it needs keys and TLS.",
)
@click.option(
    "--store",
    "--host",
    "store",
    type=click.Choice(["sqlite", "memory", "dapr"]),
    metavar="[sqlite|memory|dapr]",
    help="Where actors and events are stored (default: sqlite); --host is the same.",
)
@database_option
@click.option("--per-agent", is_flag=True, help="On dapr: an app for each agent, not one for all of them.")
@click.option(
    "--replicas", type=WholeNumber(1, 64), default=1, metavar="N", help="On dapr: workers of each app."
)
@click.option("--bus", type=click.Choice(["mqtt", "redis"]), help="On dapr: what carries messages (mqtt).")
@click.option(
    "--behind-tls",
    is_flag=True,
    default=None,
    help="TLS ends at an ingress or a proxy before it: listen off loopback without; keys are required.",
)
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Listen off loopback without TLS, or although no key is required: everybody may use it then.",
)
@click.option("--model", metavar="NAME", help="One model that answers every agent, like ollama/llama3.1.")
@click.option(
    "--mqtt", metavar="URL", help="Serve MQTT clients at this broker, such as mqtt://127.0.0.1:1883."
)
@data_option
@log_option
@trust_option
@click.option(
    "--accept-loss",
    is_flag=True,
    default=None,
    help="Start on a store that has lost what was committed to it.",
)
@click.option(
    "--hold/--release",
    default=None,
    help="Begin no task before mesh release, as after a restore; or begin those of a restored backup now.",
)
@click.option(
    "--reload", is_flag=True, help="Start again when a Python file of the project, or mesh.toml, changes."
)
def up(
    port: int | None,
    listen: str | None,
    mqtt: str | None,
    data: Path | None,
    per_agent: bool,
    replicas: int,
    bus: str | None,
    behind_tls: bool | None,
    insecure: bool | None,
    model: str | None,
    hold: bool | None,
    reload: bool,
    **options: Any,
) -> None:
    """Run a mesh and its HTTP API until Ctrl-C.

    Prints `ready URL` on stdout when it takes tasks. Stopped by Ctrl-C or SIGTERM, it gives running work
    `drain_seconds` (10) to end. Unfinished tasks resume at the next start, also after a kill.
    """
    tables: dict[str, Any] = {
        "http": {"port": port, "host": listen, "behind_tls": behind_tls, "insecure": insecure},
        "mqtt": {"url": mqtt},
        "dapr": {"bus": bus},
        "models": {"adapter": model},
    }
    if hold is not None:
        tables["maintenance"] = {"hold": hold}
    settings = _settings(data_dir=data, **tables, **options)
    agents: Sequence[type[Agent]] | None = click.get_current_context().obj
    if settings.store == "dapr" and (reload or agents is not None):
        problem = "--store dapr runs the agents of actors/, in processes that --reload does not start again"
        raise click.UsageError(problem, click.get_current_context())
    if settings.store == "dapr":
        _run_stack(settings, per_agent=per_agent, replicas=replicas)
        _say_stopped()
        return
    if per_agent or replicas > 1:
        raise click.UsageError("--per-agent and --replicas are for --store dapr", click.get_current_context())
    if reload:
        from meshwright.cli.supervision import run_reloading
        from meshwright.edges.http.server import listen

        with listen(settings[HttpSettings].host, settings[HttpSettings].port) as listener:
            run_reloading(settings, listener)
    else:
        _run(_up(settings, agents))
    _say_stopped()


def _say_stopped() -> None:
    if sys.stderr.isatty() and sys.stdin.isatty():  # below the ^C that the terminal shows
        click.echo("\nstopped; unfinished tasks go on at the next mesh up", err=True)


@click.command()
@click.option("--app", "app_id", metavar="APP-ID", help="On dapr: mesh, a part of the mesh, or an agent.")
@database_option
@click.option(
    "--replica", is_flag=True, help="Leave event log, API and MQTT edge to another worker of the app."
)
@click.option("--port", type=WholeNumber(0, 65_535), metavar="N", help="For the API, or else for probes.")
@data_option
@log_option
@trust_option
def worker(
    app_id: str | None, database: str | None, replica: bool, port: int | None, data: Path | None, **more: Any
) -> None:
    """Run one worker, on a PostgreSQL database or beside a Dapr sidecar.

    With --database it runs the tasks of every agent, as many workers as you like; `mesh up --database` runs
    one with the API. GET /healthz and /readyz are answered on the port.

    On Dapr `mesh up --store dapr` starts workers; in a cluster this is what a container runs. The sidecar is
    found by Dapr's own variables: DAPR_GRPC_PORT, APP_PORT, ...
    The app llm-service offers the models of the mesh there (default: 8002).
    """
    settings = _settings(data_dir=data, http={"port": port}, database=database, **more)
    if app_id is None and settings.database is not None:
        _run(_work(settings.having(http={"port": port or 0}), WHOLE_MESH, replica=True))
        return
    if app_id is None:
        raise click.UsageError("Give --database URL, or on Dapr --app APP-ID", click.get_current_context())
    settings = settings.having(store="dapr")
    _run(_work(listening_for(app_id, settings), app_id, replica))


def _settings(*, log_level: Sequence[str], **overrides: object) -> Settings:
    from meshwright.console.process import log_service
    from meshwright.core.settings import load_settings

    settings = load_settings(Path(), log_level=",".join(log_level) or None, **overrides)
    settings.require_secrets()
    form = log_service(settings.data_dir, settings.log_level, settings.log_format)
    require_trust(settings)
    os.umask(_PRIVATE_UMASK)
    return settings.having(log_format=form)  # the workers of a stack, which have no terminal, log in the same


def _run(serving: Coroutine[Any, Any, None]) -> None:
    gc.disable()  # until `collecting`: almost all that a start makes stays
    from meshwright.cli.serving import loop_factory
    from meshwright.console.process import forks_apart

    with forks_apart(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serving)


def listening_for(app_id: str, settings: Settings) -> Settings:
    """The settings with the port of the app, if they name none."""
    if app_id != MODELS_APP or "port" in settings[HttpSettings].model_fields_set:
        return settings
    return settings.having(http={"port": MODELS_PORT})


@contextmanager
def _own_folder(settings: Settings) -> Iterator[Settings]:
    """The settings of this process. Those that share a database each have a folder, and one `secret.key`.

    On Dapr the stack gives each its folder; on SQLite there is one process.
    """
    if settings.database is None or settings.store == "dapr":
        yield settings
        return
    secrets = {"file": settings[SecretsSettings].file or settings.data_dir / SECRET_KEY}
    with own_folder(settings.data_dir) as folder:
        yield settings.having(data_dir=folder, secrets=secrets)


async def _up(settings: Settings, agents: Sequence[type[Agent]] | None = None) -> None:
    from meshwright.agents.loader import check_agents
    from meshwright.cli.serving import inherited_listener, start_again, watching
    from meshwright.edges.http.server import listen, serve
    from meshwright.mesh.app import build_mesh, component_agents

    # Before work begins that a port in use would break off.
    with (
        inherited_listener() or listen(settings[HttpSettings].host, settings[HttpSettings].port) as listener,
        _own_folder(with_admin_token(settings)) as own,
    ):
        mesh = build_mesh(own, agents=None if agents is None else check_agents(agents, component_agents(own)))
        watched = watching(mesh, partial(start_again, listener))
        await _serve(mesh, listener, partial(_serve_api, partial(serve, has_socket=True)), watched)


async def _work(settings: Settings, app_id: str, replica: bool) -> None:
    from meshwright.cli.serving import watching
    from meshwright.edges.http.app import create_llm_app
    from meshwright.edges.http.server import listen, serve
    from meshwright.mesh.app import build_worker, serves_api

    serving: _Serving = _answer_probes
    if app_id == MODELS_APP:
        serving = partial(_serve_api, partial(serve, make_app=create_llm_app))
    elif serves_api(app_id, replica=replica):
        serving = partial(_serve_api, partial(serve, has_socket=True))
    with listen(settings[HttpSettings].host, settings[HttpSettings].port) as listener:
        if serving is not _answer_probes:
            settings = with_admin_token(settings)
        with _own_folder(settings) as own:
            mesh = build_worker(own, app_id=app_id, replica=replica)
            await _serve(mesh, listener, serving, watching(mesh))


async def _serve(
    mesh: Mesh,
    listener: socket,
    serving: _Serving,
    watched: AbstractContextManager[Callable[[socket, bool], None]],
) -> None:
    """Run a mesh until it is stopped, or cannot go on, and let running work end.

    Raises Abort where it was asked to stop once more before that.
    """
    from meshwright.agents.prompts import PromptSources
    from meshwright.cli.serving import collecting, groups_before_apart
    from meshwright.engine.work import Worker

    worker = mesh.get(Worker)
    report_problems(mesh)
    with watched as watch_api:
        async with collecting(lambda: not worker.running), mesh:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, mesh.get(PromptSources).reload)
            address = f"{gethostname()}:{listener.getsockname()[1]}"
            _tell(mesh, "mesh.started", address)
            groups = groups_before_apart(mesh.settings)
            if groups is not None:
                mesh.database.write_apart(after_groups=groups)
            await serving(mesh, listener, partial(watch_api, listener))
            has_drained = await _drain(worker, mesh.settings.drain_seconds)
            _tell(mesh, "mesh.stopped", address)
    if not has_drained:
        raise click.Abort


def _tell(mesh: Mesh, event_type: str, address: str) -> None:
    """Have the log say that a process which serves callers began, or was stopped."""
    from meshwright.engine.events.event_types import ProcessEvent

    if mesh.role.is_front:
        event = ProcessEvent(address=address, pid=os.getpid(), store=mesh.settings.store)
        mesh.tell(event_type, event)


async def _serve_api(
    serve: Callable[[Mesh, socket, Callable[[str], None]], Awaitable[None]],
    mesh: Mesh,
    listener: socket,
    watch_api: Callable[[bool], None],
) -> None:
    from meshwright.cli.serving import switch_often

    switch_often()
    with ExitStack() as announcement:

        def on_ready(url: str) -> None:
            announcement.enter_context(announced(mesh.settings.data_dir, url))
            watch_api(mesh.settings[HttpSettings].tls_cert is not None)
            _greet(mesh, url)

        await serve(mesh, listener, on_ready)


async def _answer_probes(mesh: Mesh, listener: socket, watch_api: Callable[[bool], None]) -> None:
    from meshwright.parts.stack.machine import answering_probes

    stopping = asyncio.Event()
    on_stop_signals(stopping.set)
    async with answering_probes(listener, lambda: mesh.takes_tasks):
        watch_api(False)  # probes are plain HTTP, whatever the API is
        if error := await unless(stopping, mesh.failure()):
            raise error


def _greet(mesh: Mesh, url: str) -> None:
    from meshwright.agents.loader import BoundAgents
    from meshwright.models.port import Model

    click.echo(f"ready {url}")
    say(f"model: {mesh.get(Model).name}")
    for warning in mesh.warnings:
        say(warning, logging.WARNING)
    if mesh.settings[MqttSettings].url:
        say(f"MQTT: {mesh.settings[MqttSettings].url}, topics below {mesh.settings[MqttSettings].prefix}/")
    agents = ", ".join(mesh.get(BoundAgents))
    if not agents and mesh.settings.store == "sqlite":
        say(
            f"no agent runs: {mesh.settings[AgentsSettings].dir}/ has none; mesh init makes one",
            logging.WARNING,
        )
    page = f"page: {url}; " if mesh.settings[PageSettings].enabled and mesh.has_log else ""
    say(f"{f'agents: {agents}; ' if agents else ''}{page}API: {url}/docs; Ctrl-C stops")


async def _drain(worker: Worker, seconds: float) -> bool:
    """Let running work end for some seconds; asked to stop once more, leave it for the next start.

    Returns False where it was asked to.
    """
    if not worker.running:
        return True
    hurry = asyncio.Event()
    on_stop_signals(hurry.set)
    running = f"{worker.running} running, with {seconds:g} s to end"
    say(f"{running}; Ctrl-C leaves them for the next start")
    await unless(hurry, worker.drain(seconds))
    await worker.drain(0)
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().remove_signal_handler(number)
    return not hurry.is_set()


def _run_stack(settings: Settings, *, per_agent: bool, replicas: int) -> None:
    """Run a mesh on Dapr until it is stopped. Raises ServiceFailed, ConfigError, StoreLocked."""
    from meshwright.cli.supervision import app_specs, supervise
    from meshwright.core.plugins import require_sdk
    from meshwright.parts.stack.machine import locked

    require_sdk()
    if (cert := settings[HttpSettings].tls_cert) and (key := settings[HttpSettings].tls_key):
        from meshwright.edges.tls import Certificate

        Certificate(cert, key)  # raises before anything is started
    apps = app_specs(settings, per_agent=per_agent, replicas=replicas)
    with locked(settings.data_dir) as lock:
        settings = with_admin_token(settings)
        try:
            create_server((settings[HttpSettings].host, settings[HttpSettings].port)).close()
        except OSError:
            # Large, and this process stays: imported only to check the address.
            from meshwright.edges.http.server import listen

            listen(settings[HttpSettings].host, settings[HttpSettings].port).close()
        asyncio.run(supervise(settings, apps, lock))

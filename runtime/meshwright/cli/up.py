"""`mesh up`, and `mesh worker`, which it starts for a mesh on Dapr."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.options import data_option, database_option
from meshwright.cli.running import announced, with_admin_token
from meshwright.cli.serving import (
    PRIVATE_UMASK,
    STOP_SIGNALS,
    drain,
    inherited_listener,
    loop_factory,
    reread_prompts_on_sighup,
    start_again,
    switch_often,
    writes_apart,
)
from meshwright.cli.trust import require_trust, trust_option
from meshwright.waiting import unless

if TYPE_CHECKING:
    from socket import socket

    from meshwright.mesh import Mesh
    from meshwright.settings import Settings

WHOLE_MESH = "mesh"
MODELS_APP, MODELS_PORT = "llm-service", 8002


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65_535), metavar="N", help="0 takes any free one (default: 8000)."
)
@click.option(
    "--store",
    "--host",
    "store",
    type=click.Choice(["sqlite", "memory", "dapr", "embedded"]),
    metavar="[sqlite|memory|dapr]",
    help="Where actors and events are stored (default: sqlite); --host is the same.",
)
@database_option
@click.option("--per-agent", is_flag=True, help="On dapr: an app for each agent, not one for all of them.")
@click.option(
    "--replicas", type=click.IntRange(1, 64), default=1, metavar="N", help="On dapr: workers of each app."
)
@click.option("--bus", type=click.Choice(["mqtt", "redis"]), help="On dapr: what carries messages (mqtt).")
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Listen off loopback although no key is required: everybody may use the mesh then.",
)
@click.option(
    "--mqtt", metavar="URL", help="Serve MQTT clients at this broker, such as mqtt://127.0.0.1:1883."
)
@data_option
@trust_option
@click.option("--accept-loss", is_flag=True, help="Start on a store that has lost what was committed to it.")
def up(
    port: int | None,
    store: str | None,
    database: str | None,
    per_agent: bool,
    replicas: int,
    bus: str | None,
    insecure: bool | None,
    mqtt: str | None,
    data: Path | None,
    accept_loss: bool,
) -> None:
    """Run a mesh and its HTTP API until Ctrl-C.

    Prints `ready URL` on stdout when it takes tasks. Stopped by Ctrl-C or SIGTERM, it gives running work ten
    seconds to end. Unfinished tasks resume at the next start, also after a kill.
    """
    settings = _settings(
        data_dir=data,
        listen_port=port,
        store=store,
        database=database,
        bus=bus,
        insecure=insecure,
        mqtt_url=mqtt,
        accept_loss=accept_loss or None,
    )
    if settings.store == "dapr":
        from meshwright.cli.stack import run_stack

        run_stack(settings, per_agent=per_agent, replicas=replicas)
        return
    if per_agent or replicas > 1:
        raise click.UsageError("--per-agent and --replicas are for --host dapr", click.get_current_context())
    _run(_up(settings))


@click.command()
@click.option("--app", "app_id", metavar="APP-ID", help="On dapr: mesh, a part of the mesh, or an agent.")
@database_option
@click.option(
    "--replica", is_flag=True, help="Leave event log, API and MQTT edge to another worker of the app."
)
@click.option("--port", type=click.IntRange(0, 65_535), metavar="N", help="For the API, or else for probes.")
@data_option
@trust_option
def worker(
    app_id: str | None, database: str | None, replica: bool, port: int | None, data: Path | None
) -> None:
    """Run one worker, on a PostgreSQL database or beside a Dapr sidecar.

    With --database it runs the tasks of every agent, as many workers as you like; `mesh up --database` runs
    one with the API. GET /healthz and /readyz are answered on the port.

    On Dapr `mesh up --host dapr` starts workers; in a cluster this is what a container runs. The sidecar is
    found by Dapr's own variables: DAPR_GRPC_PORT, APP_PORT, ...
    The app llm-service offers the models of the mesh there (default: 8002).
    """
    settings = _settings(data_dir=data, listen_port=port, database=database)
    if app_id is None and settings.database is not None:
        _run(_work(settings.having(listen_port=port or 0), WHOLE_MESH, replica=True))
        return
    if app_id is None:
        raise click.UsageError("Give --database URL, or on Dapr --app APP-ID", click.get_current_context())
    settings = settings.having(store="dapr")
    _run(_work(listening_for(app_id, settings), app_id, replica))


def _settings(**given: object) -> Settings:
    from meshwright.cli.reports import log_to_stderr
    from meshwright.settings import load_settings

    settings = load_settings(Path(), **given)
    log_to_stderr(settings.data_dir)
    require_trust(settings)
    os.umask(PRIVATE_UMASK)
    return settings


def _run(serving: Awaitable[None]) -> None:
    async def serve() -> None:
        await serving

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve())


def listening_for(app_id: str, settings: Settings) -> Settings:
    """The settings with the port of the app, if they name none."""
    if app_id != MODELS_APP or "port" in settings.http.model_fields_set:
        return settings
    return settings.having(listen_port=MODELS_PORT)


async def _up(settings: Settings) -> None:
    from meshwright.app import build_mesh
    from meshwright.cli.watchdog import watching
    from meshwright.edges.http.server import listen, serve

    # Before work begins that a port in use would break off.
    with inherited_listener() or listen(settings.http.host, settings.http.port) as listener:
        mesh = build_mesh(with_admin_token(settings))
        await _serve(
            mesh, listener, partial(_serve_api, serve), watching(mesh, partial(start_again, listener))
        )


async def _work(settings: Settings, app_id: str, replica: bool) -> None:
    from meshwright.app import build_worker, serves_api
    from meshwright.cli.watchdog import watching
    from meshwright.edges.http.app import create_llm_app
    from meshwright.edges.http.server import listen, serve

    serving: Callable[[Mesh, socket], Awaitable[None]] = _answer_probes
    if app_id == MODELS_APP:
        serving = partial(_serve_api, partial(serve, make_app=create_llm_app))
    elif serves_api(app_id, replica=replica):
        serving = partial(_serve_api, serve)
    with listen(settings.http.host, settings.http.port) as listener:
        if serving is not _answer_probes:
            settings = with_admin_token(settings)
        mesh = build_worker(settings, app_id=app_id, replica=replica)
        await _serve(mesh, listener, serving, watching(mesh))


async def _serve(
    mesh: Mesh,
    listener: socket,
    serving: Callable[[Mesh, socket], Awaitable[None]],
    watched: AbstractContextManager[None],
) -> None:
    """Run a mesh until it is told to stop, or cannot go on, and let running work end."""
    from meshwright.cli.collector import collecting
    from meshwright.cli.connect import report_prompts

    report_prompts(mesh)
    with watched:
        async with mesh:
            reread_prompts_on_sighup(mesh)
            if writes_apart(mesh.settings):
                mesh.database.write_apart()
            async with collecting(lambda: not mesh.worker.running):
                await serving(mesh, listener)
            await drain(mesh)


async def _serve_api(
    serve: Callable[[Mesh, socket, Callable[[str], None]], Awaitable[None]], mesh: Mesh, listener: socket
) -> None:
    switch_often()
    with ExitStack() as announcement:

        def on_ready(url: str) -> None:
            announcement.enter_context(announced(mesh.settings.data_dir, url))
            _greet(mesh, url)

        await serve(mesh, listener, on_ready)


async def _answer_probes(mesh: Mesh, listener: socket) -> None:
    from meshwright.stack.network import answering_probes

    stopping = asyncio.Event()
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with answering_probes(listener, lambda: mesh.ready):
        if error := await unless(stopping, mesh.failure()):
            raise error


def _greet(mesh: Mesh, url: str) -> None:
    click.echo(f"ready {url}")
    click.echo(f"model: {mesh.model.name}", err=True)
    for warning in mesh.warnings:
        click.echo(f"mesh: warning: {warning}", err=True)
    if mesh.settings.mqtt.url:
        click.echo(f"MQTT: {mesh.settings.mqtt.url}, topics below {mesh.settings.mqtt.prefix}/", err=True)
    agents = f"agents: {', '.join(mesh.agents)}; " if mesh.agents else ""
    click.echo(f"{agents}API: {url}/docs; Ctrl-C stops", err=True)

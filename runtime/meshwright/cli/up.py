"""`mesh up`."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.admin_token import with_admin_token
from meshwright.cli.collector import collecting
from meshwright.cli.options import data_option, mqtt_option
from meshwright.cli.serving import (
    PRIVATE_UMASK,
    drain,
    inherited_listener,
    loop_factory,
    reread_prompts_on_sighup,
    start_again,
    switch_often,
)
from meshwright.cli.trust import require_trust, trust_option

if TYPE_CHECKING:
    from socket import socket

    from meshwright.mesh import Mesh
    from meshwright.settings import Settings


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
@mqtt_option
@data_option
@trust_option
@click.option("--accept-loss", is_flag=True, help="Start on a store that has lost what was committed to it.")
def up(
    port: int | None,
    store: str | None,
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
    seconds to end; what is unfinished then, or was when it was killed, goes on at the next start.
    """
    from meshwright.cli.logs import log_to_stderr
    from meshwright.settings import load_settings

    settings = load_settings(
        Path(),
        data_dir=data,
        listen_port=port,
        store=store,
        bus=bus,
        insecure=insecure,
        mqtt_url=mqtt,
        accept_loss=accept_loss or None,
    )
    log_to_stderr(settings.data_dir)
    require_trust(settings)
    os.umask(PRIVATE_UMASK)
    if settings.store == "dapr":
        from meshwright.cli.supervised import run_stack

        run_stack(settings, per_agent=per_agent, replicas=replicas)
        return
    if per_agent or replicas > 1:
        raise click.UsageError("--per-agent and --replicas are for --host dapr", click.get_current_context())
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from meshwright.app import build_mesh
    from meshwright.cli.notices import tell_of_prompts
    from meshwright.cli.watchdog import watching
    from meshwright.edges.http.server import listen

    # Before work begins that a port in use would break off.
    with inherited_listener() or listen(settings.http.host, settings.http.port) as listener:
        mesh = build_mesh(with_admin_token(settings))
        tell_of_prompts(mesh)
        with watching(mesh, partial(start_again, listener)):
            async with mesh:
                await serve_on(listener, mesh)


async def serve_on(listener: socket, mesh: Mesh) -> None:
    """Serve the API of a running mesh until it is told to stop, and let running work end."""
    from meshwright.cli.running import announced
    from meshwright.edges.http.server import serve

    switch_often()
    reread_prompts_on_sighup(mesh)
    with ExitStack() as announcement:

        def on_ready(url: str) -> None:
            announcement.enter_context(announced(mesh.settings.data_dir, url))
            _greet(mesh, url)

        async with collecting(lambda: not mesh.worker.running):
            await serve(mesh, listener, on_ready)
    await drain(mesh)


def _greet(mesh: Mesh, url: str) -> None:
    click.echo(f"ready {url}")
    click.echo(f"model: {mesh.model.name}", err=True)
    for warning in mesh.warnings:
        click.echo(f"mesh: warning: {warning}", err=True)
    if mesh.settings.mqtt_url:
        click.echo(f"MQTT: {mesh.settings.mqtt_url}, topics below {mesh.settings.mqtt_prefix}/", err=True)
    agents = f"agents: {', '.join(mesh.agents)}; " if mesh.agents else ""
    click.echo(f"{agents}API: {url}/docs; Ctrl-C stops", err=True)

"""`mesh worker`."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.admin_token import with_admin_token
from meshwright.cli.collector import collecting
from meshwright.cli.options import data_option
from meshwright.cli.serving import (
    PRIVATE_UMASK,
    STOP_SIGNALS,
    drain,
    loop_factory,
    reread_prompts_on_sighup,
)
from meshwright.cli.trust import require_trust, trust_option
from meshwright.cli.up import serve_on

if TYPE_CHECKING:
    from socket import socket

    from meshwright.mesh import Mesh
    from meshwright.settings import Settings

MODELS_APP, MODELS_PORT = "llm-service", 8002


@click.command()
@click.option(
    "--app", "app_id", required=True, metavar="APP-ID", help="mesh, a part of the mesh, or an agent."
)
@click.option(
    "--replica", is_flag=True, help="Leave event log, API and MQTT edge to another worker of the app."
)
@click.option("--port", type=click.IntRange(0, 65_535), metavar="N", help="For the API, or else for probes.")
@data_option
@trust_option
def worker(app_id: str, replica: bool, port: int | None, data: Path | None) -> None:
    """Run one worker of a mesh on Dapr, beside its sidecar.

    `mesh up --host dapr` starts them; in a cluster this is what a container runs. The sidecar is found by
    Dapr's own variables: DAPR_GRPC_PORT, APP_PORT, ... GET /healthz and /readyz are answered on the port.
    The app llm-service offers the models of the mesh there (default: 8002).
    """
    from meshwright.cli.logs import log_to_stderr
    from meshwright.settings import load_settings

    settings = listening_for(app_id, load_settings(Path(), data_dir=data, listen_port=port, host="dapr"))
    log_to_stderr(settings.data_dir)
    require_trust(settings)
    os.umask(PRIVATE_UMASK)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_work(settings, app_id, replica))


def listening_for(app_id: str, settings: Settings) -> Settings:
    """The settings with the port of the app, where they name none."""
    if app_id != MODELS_APP or "port" in settings.http.model_fields_set:
        return settings
    return settings.having(listen_port=MODELS_PORT)


async def _work(settings: Settings, app_id: str, replica: bool) -> None:
    from meshwright.app import build_worker, serves_api
    from meshwright.cli.notices import tell_of_prompts
    from meshwright.cli.watchdog import watching
    from meshwright.edges.http.server import listen

    is_front = serves_api(app_id, replica=replica)
    serve = _offer_models if app_id == MODELS_APP else serve_on if is_front else _answer_probes
    with listen(settings.http.host, settings.http.port) as listener:
        if serve is not _answer_probes:
            settings = with_admin_token(settings)
        mesh = build_worker(settings, app_id=app_id, replica=replica)
        tell_of_prompts(mesh)
        with watching(mesh):
            async with mesh:
                await serve(listener, mesh)


async def _offer_models(listener: socket, mesh: Mesh) -> None:
    """Serve what calls models until a signal, or until the mesh cannot go on."""
    from meshwright.cli.running import announced
    from meshwright.edges.http.app import create_llm_app
    from meshwright.edges.http.server import serve

    reread_prompts_on_sighup(mesh)
    with ExitStack() as announcement:

        def on_ready(url: str) -> None:
            announcement.enter_context(announced(mesh.settings.data_dir, url))
            click.echo(f"ready {url}")
            click.echo(f"model: {mesh.model.name}; API: {url}/docs; Ctrl-C stops", err=True)

        async with collecting(lambda: not mesh.worker.running):
            await serve(mesh, listener, on_ready, create_llm_app)
    await drain(mesh)


async def _answer_probes(listener: socket, mesh: Mesh) -> None:
    """Work until a signal, or until the mesh cannot go on."""
    from meshwright.stack.network import answering_probes

    reread_prompts_on_sighup(mesh)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stopping.set)
    async with collecting(lambda: not mesh.worker.running), answering_probes(listener, lambda: mesh.ready):
        stopped = asyncio.create_task(stopping.wait())
        failed = asyncio.create_task(mesh.failure())
        await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            raise failed.result()
        failed.cancel()
        await drain(mesh)

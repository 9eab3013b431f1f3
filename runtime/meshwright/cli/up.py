"""`mesh up`."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.options import data_option

if TYPE_CHECKING:
    from socket import socket

    from meshwright.mesh import Mesh
    from meshwright.settings import Settings

DRAIN_SECONDS = 10
SWITCH_SECONDS = 0.001
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65_535), metavar="N", help="0 takes any free one (default: 8000)."
)
@data_option
def up(port: int | None, data: Path | None) -> None:
    """Run a mesh and its HTTP API until Ctrl-C.

    Prints `ready URL` on stdout when it takes tasks. Stopped by Ctrl-C or SIGTERM, it gives running work ten
    seconds to end; what is unfinished then, or was when it was killed, goes on at the next start.
    """
    from meshwright.cli.logs import log_to_stderr
    from meshwright.settings import load_settings

    settings = load_settings(Path(), data_dir=data, listen_port=port)
    log_to_stderr(settings.data_dir)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for every system
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings) -> None:
    from meshwright.assembly import build_mesh, listen
    from meshwright.cli.notices import tell_of_prompts

    mesh = build_mesh(settings)
    tell_of_prompts(mesh)
    with listen(settings) as listener:  # before work begins that a port in use would break off
        async with mesh:
            await _serve_on(listener, mesh)


async def _serve_on(listener: socket, mesh: Mesh) -> None:
    from meshwright.assembly import serve
    from meshwright.cli.running import announced

    collect_seldom()
    switch_often()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, mesh.prompts.refresh)
    with ExitStack() as announcement:

        def on_ready(url: str) -> None:
            announcement.enter_context(announced(mesh.settings.data_dir, url))
            _greet(mesh, url)

        await serve(mesh, listener, on_ready)
    await _drain(mesh)


def collect_seldom() -> None:
    """Keep the garbage collector from stalling the loop: what is loaded stays, new objects seldom are cycles.

    With its default thresholds a busy mesh stood still for 70 to 100 ms at a time; so it does for under 15.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def switch_often() -> None:
    """Let the writer's thread in sooner while the loop is busy.

    It lets go of the interpreter at each statement, and by default waits up to 5 ms to get it back: a commit
    of a dozen statements then takes longer than its tasks.
    """
    sys.setswitchinterval(SWITCH_SECONDS)


async def _drain(mesh: Mesh) -> None:
    """Let running work end for some seconds; asked to stop once more, leave it for the next start."""
    if not mesh.worker.running:
        return
    loop = asyncio.get_running_loop()
    hurry = asyncio.Event()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, hurry.set)
    running = f"{mesh.worker.running} running, with {DRAIN_SECONDS} s to end"
    click.echo(f"{running}; Ctrl-C leaves them for the next start", err=True)
    draining = asyncio.create_task(mesh.worker.drain(DRAIN_SECONDS))
    hurrying = asyncio.create_task(hurry.wait())
    await asyncio.wait([draining, hurrying], return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    await mesh.worker.drain(0)
    await draining
    for number in STOP_SIGNALS:
        loop.remove_signal_handler(number)


def _greet(mesh: Mesh, url: str) -> None:
    click.echo(f"ready {url}")
    click.echo(f"model: {mesh.model.name}", err=True)
    click.echo(f"agents: {', '.join(mesh.agents)}; API: {url}/docs; Ctrl-C stops", err=True)

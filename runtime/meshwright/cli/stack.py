"""`mesh up --host dapr`: a stack under this process, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.running import announced, with_admin_token
from meshwright.cli.serving import STOP_SIGNALS
from meshwright.waiting import unless

if TYPE_CHECKING:
    from meshwright.settings import Settings
    from meshwright.stack.stack import AppSpec, Row
    from meshwright.stack.supervisor import Supervisor

HEADS = ("what", "where", "process")


def run_stack(settings: Settings, *, per_agent: bool, replicas: int) -> None:
    """Run a mesh on Dapr until it is told to stop. Raises ServiceFailed, ConfigError, StoreLocked."""
    from meshwright.stack.folder import locked
    from meshwright.stack.programs import require_sdk

    require_sdk()
    apps = _apps(settings, per_agent=per_agent, replicas=replicas)
    with locked(settings.data_dir) as lock:
        settings = with_admin_token(settings)
        _check_port(settings)
        asyncio.run(_run(settings, apps, lock))


def _check_port(settings: Settings) -> None:
    """See whether the API can have its address before anything is started. Raises ConfigError."""
    try:
        socket.create_server((settings.http.host, settings.http.port)).close()
    except OSError:
        # Large, and this process stays: only to be told what is wrong.
        from meshwright.edges.http.server import listen

        listen(settings.http.host, settings.http.port).close()


def _apps(settings: Settings, *, per_agent: bool, replicas: int) -> list[AppSpec]:
    from meshwright.stack.stack import app_per_agent, one_app

    if not per_agent:
        return one_app(replicas)
    from meshwright.agents.loader import load_agents, project_file

    agents = load_agents(project_file(Path(), settings.agents.dir), Path())
    return app_per_agent([agent.agent_id for agent in agents], replicas)


async def _run(settings: Settings, apps: Sequence[AppSpec], lock: int) -> None:
    from meshwright.stack.network import Ports
    from meshwright.stack.programs import components_of
    from meshwright.stack.stack import Stack
    from meshwright.stack.supervisor import Supervisor

    components = components_of(Path())
    several = len(apps) > 1 or apps[0].workers > 1
    supervisor = Supervisor(
        settings.data_dir / "logs",
        warn=_warn,
        on_line=lambda name, stream, line: _repeat(f"{name}: {line}" if several else line, stream),
        descriptors=[lock],
    )
    stopping = _stop_on_signals(supervisor)
    ports = Ports()
    stack = Stack(settings, apps, components=components, ports=ports, supervisor=supervisor, warn=_warn)
    try:
        await unless(stopping, stack.start_backends())
        await unless(stopping, stack.start_workers())
        if not stopping.is_set():
            with announced(settings.data_dir, stack.url):
                _show(stack.rows(), settings.data_dir / "logs")
                click.echo(f"ready {stack.url}")
                await unless(stopping, _failure(supervisor))
    finally:
        await supervisor.stop()
        ports.close()


def _stop_on_signals(supervisor: Supervisor) -> asyncio.Event:
    """The event that the first signal to stop sets; further ones are for the workers, to hurry."""
    from meshwright.stack.services import Layer

    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            supervisor.send(Layer.WORKERS, signal.SIGTERM)
        stopping.set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.send, Layer.WORKERS, signal.SIGHUP)
    return stopping


def _warn(line: str) -> None:
    _say(f"mesh: warning: {line}", err=True)


def _say(line: str, *, err: bool) -> None:
    with suppress(OSError):  # nobody reads us any more, and what runs goes on: its logs have it too
        click.echo(line, err=err)


async def _failure(supervisor: Supervisor) -> None:
    raise await supervisor.failure()


def _repeat(line: str, stream: str) -> None:
    """Say what a worker says, where it says it, but for the line that it says to us."""
    if "ready http" not in line:
        _say(line, err=stream == "stderr")


def _show(rows: Sequence[Row], logs: Path) -> None:
    from meshwright.cli.output import table

    cells = [[row.name, row.address, row.process or "(given)"] for row in rows]
    if sys.stderr.isatty():
        _show_in_colours(cells)
    else:
        click.echo(table(HEADS, cells), err=True)
    click.echo(f"logs: {logs}; Ctrl-C stops", err=True)


def _show_in_colours(rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="dim")
    for head, style in zip(HEADS, ("bold", "cyan", "dim"), strict=True):
        grid.add_column(head, style=style, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    Console(stderr=True, highlight=False).print(grid)

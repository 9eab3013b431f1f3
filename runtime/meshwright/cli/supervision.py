"""`mesh up` that runs the mesh in processes of its own: those of a stack on Dapr, or one with `--reload`.

With `--reload` the mesh is started again when a file of the project changes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any

import click

from meshwright.agents.settings import AgentsSettings
from meshwright.console.connect import announced
from meshwright.console.output import styled, table
from meshwright.console.process import on_stop_signals, say
from meshwright.core.clock import unless
from meshwright.core.display import Column, Document
from meshwright.core.errors import StoreLocked
from meshwright.engine.sql.folder import lock_folder
from meshwright.models.settings import ModelsSettings
from meshwright.parts.stack.supervisor import LAUNCH

if TYPE_CHECKING:
    from meshwright.core.settings import Settings
    from meshwright.parts.stack.stack import AppSpec
    from meshwright.parts.stack.supervisor import Supervisor

OPTION = "--reload"
_LOOK_SECONDS = 0.5
_MAX_SHARE = 0.05  # of the time that goes into looking at files
_DRAIN_SECONDS = 2.0  # for work that runs when a file changes; the rest goes on by its journal
_STOP_SECONDS = 15.0
_INTERRUPTED = 130
_PASSED_OVER = frozenset(("__pycache__", "node_modules", "tests"))
_Files = dict[str, tuple[int, int]]
_ROWS = (Column("what", "name"), Column("where", "address"), Column("process", "process"))
_ROW_STYLES: list[dict[str, Any]] = [{"bold": True}, {"fg": "cyan"}, {"dim": True}]


def run_reloading(settings: Settings, listener: socket) -> None:
    """Run the present command without --reload, again after each change, until this process is stopped.

    All runs take connections from `listener`: callers wait while none runs. Raises Abort where the last one
    was stopped before its work had ended.
    """
    if asyncio.run(_Reloading(settings, listener).run()) == _INTERRUPTED:
        raise click.Abort


def _changed(before: _Files, now: _Files) -> str:
    first = min(path for path in {*before, *now} if before.get(path) != now.get(path))
    return f"{os.path.relpath(first)} has changed"


class _Reloading:
    """The process of the mesh, and the files on which it rests."""

    def __init__(self, settings: Settings, listener: socket) -> None:
        self._folders = dict.fromkeys([Path.cwd(), settings[AgentsSettings].dir.resolve()])
        self._files = [Path("mesh.toml"), settings[ModelsSettings].config, Path(sys.argv[0])]
        self._data = str(settings.data_dir.resolve())
        self._listener = listener
        self._stopping = asyncio.Event()
        self._mesh: Process | None = None

    async def run(self) -> int:
        """Run it until a signal comes; returns the status of the last run."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._signal, signal.SIGHUP)
        while True:
            files = self._look()
            self._mesh = await self._start()
            if self._stopping.is_set():  # while none ran
                self._signal(signal.SIGTERM)
            reason = await unless(self._stopping, self._until_due(files, self._mesh))
            if reason is None:
                return await self._mesh.wait()
            say(f"{reason}: the mesh starts again")
            await self._end(self._mesh)

    async def _start(self) -> Process:
        from meshwright.cli.serving import LISTENER  # a stack does without

        own = [argument for argument in sys.orig_argv[1:] if argument != OPTION]
        # Killed by the kernel with this process, and not reached by the Ctrl-C of a terminal.
        launch = [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), sys.executable]
        descriptor = self._listener.fileno()
        return await asyncio.create_subprocess_exec(
            *launch,
            *own,
            stdin=DEVNULL,
            env={**os.environ, LISTENER: str(descriptor)},
            pass_fds=[descriptor],
            start_new_session=True,
        )

    async def _until_due(self, files: _Files, mesh: Process) -> str:
        """Wait until the next run is due, and return why."""
        reasons = [asyncio.create_task(self._change(files)), asyncio.create_task(self._until_free(mesh))]
        try:
            finished, _ = await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
            return finished.pop().result()
        finally:
            for reason in reasons:
                reason.cancel()

    async def _until_free(self, mesh: Process) -> str:
        """Wait until this run has ended since a command has its data, and that has ended too."""
        status = await mesh.wait()
        if not await asyncio.to_thread(self._is_held):
            say(f"the mesh has ended with status {status}; it starts again when a file changes")
            await asyncio.Event().wait()
        say(f"the mesh starts again when {self._data} is free")
        while await asyncio.to_thread(self._is_held):
            pass
        return f"{self._data} is free"

    def _is_held(self) -> bool:
        """Whether another process works on the data, also some seconds later."""
        try:
            lock_folder(Path(self._data)).close()
        except StoreLocked:
            return True
        except OSError:  # there is none yet
            return False
        return False

    async def _change(self, before: _Files) -> str:
        """Wait until a file is another than before, and return which."""
        pause = _LOOK_SECONDS
        while True:
            await asyncio.sleep(pause)
            began = time.monotonic()
            now = self._look()
            if now != before:
                return _changed(before, now)
            pause = max(_LOOK_SECONDS, (time.monotonic() - began) / _MAX_SHARE)

    def _look(self) -> _Files:
        paths = [str(path.resolve()) for path in self._files]
        for folder in self._folders:
            paths += self._python_files(str(folder))
        stamps: _Files = {}
        for path in paths:
            with suppress(OSError):  # it is not there, or not yet
                about = os.stat(path)
                stamps[path] = about.st_mtime_ns, about.st_size
        return stamps

    def _python_files(self, folder: str) -> Iterator[str]:
        """Those of a folder, but for tests, environments, data, and what is hidden."""
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _PASSED_OVER or entry.path == self._data:
                    continue
                if entry.name.endswith(".py"):
                    yield entry.path
                elif entry.is_dir(follow_symlinks=False) and not os.path.exists(f"{entry.path}/pyvenv.cfg"):
                    yield from self._python_files(entry.path)

    async def _end(self, mesh: Process) -> None:
        """Stop a run: its work has a moment to end, and goes on in the next one."""
        steps: Sequence[tuple[signal.Signals, float | None]] = (
            (signal.SIGTERM, _DRAIN_SECONDS),
            (signal.SIGTERM, _STOP_SECONDS),
            (signal.SIGKILL, None),
        )
        for number, seconds in steps:
            self._signal(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await mesh.wait()
                    return

    def _stop(self) -> None:
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self._mesh is not None and self._mesh.returncode is None:
            self._mesh.send_signal(number)


def app_specs(settings: Settings, *, per_agent: bool, replicas: int) -> list[AppSpec]:
    """The apps of a mesh on Dapr: one with all agents, or one for each."""
    from meshwright.parts.stack.stack import app_per_agent, one_app

    if not per_agent:
        return one_app(replicas)
    from meshwright.agents.component import agent_app, tool_settings
    from meshwright.mesh.app import load_agents
    from meshwright.mesh.mesh import FRONT

    tools = tool_settings(settings, Path())
    apart = [agent.agent_id for agent in load_agents(settings, Path()) if agent_app(agent, tools) != FRONT]
    return app_per_agent(apart, replicas)


async def supervise(settings: Settings, apps: Sequence[AppSpec], lock: int) -> None:
    """Run the processes of a stack until it is stopped, or one of them fails. Raises ServiceFailed."""
    from meshwright.parts.stack.machine import Ports, components_folder
    from meshwright.parts.stack.stack import Stack
    from meshwright.parts.stack.supervisor import Supervisor

    components = components_folder(Path())
    several = len(apps) > 1 or apps[0].workers > 1
    supervisor = Supervisor(
        settings.data_dir / "logs",
        warn=_warn,
        on_line=lambda name, stream, line: _repeat(f"{name}: {line}" if several else line, stream),
        descriptors=[lock],
    )
    stopping, hurry = _stop_on_signals(supervisor)
    ports = Ports()
    stack = Stack(settings, apps, components=components, ports=ports, supervisor=supervisor, warn=_warn)
    try:
        await unless(stopping, stack.start_backends())
        await unless(stopping, stack.start_workers())
        if not stopping.is_set():
            await stack.set_rights()
            with announced(settings.data_dir, stack.local_url):
                rows = [row._asdict() | {"process": row.process or "(given)"} for row in stack.rows()]
                _show(rows, settings.data_dir / "logs")
                click.echo(f"ready {stack.url}")
                rights = asyncio.create_task(stack.keep_rights(), name="broker rights")
                try:
                    if error := await unless(stopping, supervisor.failure()):
                        raise error
                finally:
                    rights.cancel()
    finally:
        await supervisor.stop()
        ports.close()
    if hurry.is_set():
        raise click.Abort


def _stop_on_signals(supervisor: Supervisor) -> tuple[asyncio.Event, asyncio.Event]:
    """The events that the first signal to stop sets, and the second, which tells the workers to hurry."""
    from meshwright.parts.stack.services import Layer

    stopping, hurry = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            hurry.set()
            supervisor.send(Layer.WORKERS, signal.SIGTERM)
        stopping.set()

    on_stop_signals(stop)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, supervisor.send, Layer.WORKERS, signal.SIGHUP)
    return stopping, hurry


def _warn(line: str) -> None:
    say(line, logging.WARNING)


def _repeat(line: str, stream: str) -> None:
    """Repeat a line of a worker on the same stream, but for the line that is meant for us."""
    if "ready http" not in line:
        with suppress(OSError):  # our output is closed; what runs goes on, and its logs have it too
            click.echo(line, err=stream == "stderr")


def _show(rows: Sequence[Document], logs: Path) -> None:
    lines = table(_ROWS, rows).splitlines()
    if sys.stderr.isatty():
        lines = [styled(lines[0], dim=True), *map(_in_colours, lines[1:])]
    click.echo("\n".join([*lines, f"logs: {logs}; Ctrl-C stops"]), err=True)


def _in_colours(line: str) -> str:
    cells = re.split(r"(\s{2,})", line, maxsplit=len(_ROWS) - 1)
    styles = iter(_ROW_STYLES)
    return "".join(cell if cell.isspace() else styled(cell, **next(styles)) for cell in cells)

"""`mesh up --reload`: the mesh is a process of its own, started again when a file of the project changes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

import click

from meshwright.agents.settings import AgentsSettings
from meshwright.cli.process import say
from meshwright.cli.serving import LISTENER
from meshwright.core.clock import unless
from meshwright.core.errors import StoreLocked
from meshwright.models.settings import ModelsSettings
from meshwright.sql.folder import lock_folder
from meshwright.stack.supervisor import LAUNCH

if TYPE_CHECKING:
    from meshwright.settings import Settings

OPTION = "--reload"
_LOOK_SECONDS = 0.5
_MAX_SHARE = 0.05  # of the time that goes into looking at files
_DRAIN_SECONDS = 2.0  # for work that runs when a file changes; the rest goes on by its journal
_STOP_SECONDS = 15.0
_INTERRUPTED = 130
_PASSED_OVER = frozenset(("__pycache__", "node_modules", "tests"))
_Files = dict[str, tuple[int, int]]


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

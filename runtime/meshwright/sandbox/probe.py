"""Tries a box before it is used: runs the break-outs in it, and looks which of them got out."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import secrets
import shutil
import socket
import tempfile
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from meshwright.core.errors import ToolFailed
from meshwright.sandbox.attempts import NAMES
from meshwright.sandbox.environment import Interpreter
from meshwright.sandbox.execution import Job
from meshwright.sandbox.port import Finished, Limits

ATTEMPTS = files("meshwright.sandbox").joinpath("attempts.py").read_text()
_LIMITS = Limits(seconds=30.0, memory_mb=512, processes=64, file_mb=8)
_MODE, _TIME = 0o600, 1_000_000_000
_ANSWER_SECONDS = 0.2


class Box(Protocol):
    """One kind of box."""

    name: str
    about: str
    """The program or the part of the kernel that it rests on, with its version."""
    filter: bytes
    """Its filter of system calls."""
    has_network: bool

    async def run(self, job: Job) -> Finished:
        """Run a job in it."""
        ...


async def broken_out_of(box: Box, interpreter: Interpreter | None = None) -> list[str]:
    """The names of the attempts that got out of a box; `attempts.NAMES` has all.

    Raises ToolFailed where the box cannot be started, or did not let the attempts end.
    """
    interpreter = interpreter or Interpreter.own()
    with _folder() as folder:
        bait = _Bait(folder)
        await bait.start(interpreter)
        try:
            described = json.dumps(bait.described | {"file_mb": _LIMITS.file_mb})
            argv = [*interpreter.command(ATTEMPTS), described]
            job = Job(argv, folder / "tree", _LIMITS, {}, [folder / "readable"])
            finished = await box.run(job)
            lines = finished.output.splitlines() or [""]
            try:
                inside = json.loads(lines[-1])
            except ValueError:
                why = finished.ended_by or lines[-1] or f"status {finished.status}"
                raise ToolFailed(f"The break-outs did not run in the box: {why}") from None
            outside = await bait.affected()
        finally:
            await bait.stop()
    return [name for name in NAMES if name in {*inside, *outside}]


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="meshwright-probe-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Bait:
    """Outside of the box: files, a process and sockets, and whether an attempt has reached them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._marker = secrets.token_hex(16)
        self._reached = set[str]()
        self._servers: list[asyncio.Server] = []
        self._processes: list[Process] = []
        self._before: tuple[object, ...] = ()
        families = (socket.AF_INET, socket.AF_UNIX)
        self._datagrams = [socket.socket(family, socket.SOCK_DGRAM) for family in families]
        self.described: dict[str, Any] = {}

    async def start(self, interpreter: Interpreter) -> None:
        folder = self._folder
        (folder / "tree").mkdir()
        (folder / "readable").mkdir()
        for name in ("secret", "readable/file", "deletable"):
            (folder / name).write_text(self._marker)
            (folder / name).chmod(_MODE)
            os.utime(folder / name, (_TIME, _TIME))
        abstract = f"meshwright-{self._marker}"
        listeners = [socket.create_server(("127.0.0.1", 0)), *_local(f"\0{abstract}", str(folder / "socket"))]
        self._servers = [await asyncio.start_server(self._hear, sock=listener) for listener in listeners]
        addresses: tuple[Any, ...] = (("127.0.0.1", 0), str(folder / "datagrams"))
        for receiver, address in zip(self._datagrams, addresses, strict=True):
            receiver.setblocking(False)
            receiver.bind(address)
        sign = f"bait={self._marker}"
        for _ in range(2):
            process = await asyncio.create_subprocess_exec(
                *(*interpreter.command("import sys; sys.stdin.read()"), sign),
                stdin=PIPE,
                stdout=DEVNULL,
                env={"bait": self._marker},
            )
            self._processes.append(process)
        self._before = self._state()
        self.described = {
            "marker": self._marker,
            "folder": str(folder),
            "secret": str(folder / "secret"),
            "readable": str(folder / "readable" / "file"),
            "tcp": listeners[0].getsockname()[1],
            "udp": self._datagrams[0].getsockname()[1],
            "abstract": abstract,
            "process": self._processes[0].pid,
            "victim": self._processes[1].pid,
        }

    async def affected(self) -> set[str]:
        """The attempts whose effect is seen outside."""
        for receiver in self._datagrams:
            with suppress(BlockingIOError):
                self._reached.add(receiver.recv(100).decode().strip())
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._processes[1].wait()
        return self._reached | set(self._effects())

    def _effects(self) -> Iterator[str]:
        secret, readable = self._folder / "secret", self._folder / "readable" / "file"
        tests: dict[str, Callable[[], bool]] = {
            "truncate_outside": lambda: not secret.read_text(),
            "delete_outside": lambda: not (self._folder / "deletable").exists(),
            "change_modes_outside": lambda: secret.stat().st_mode & 0o777 != _MODE,
            "change_modes_of_what_it_reads": lambda: readable.stat().st_mode & 0o777 != _MODE,
            "write_what_it_reads": lambda: readable.read_text() != self._marker,
            "change_times_of_what_it_reads": lambda: readable.stat().st_mtime == 1,
            "write_outside": lambda: (self._folder / "written").exists(),
            "write_through_a_link": lambda: (self._folder / "linked").exists(),
            "move_out": lambda: (self._folder / "moved").exists(),
            "outlive_the_box": self._is_locked,
        }
        yield from (name for name, is_out in tests.items() if is_out())
        if self._processes[1].returncode is not None:
            yield "kill_others"
        names = ("limit_others", "slow_others", "pin_others")
        pairs = zip(names, self._before, self._state(), strict=True)
        yield from (name for name, before, after in pairs if before != after)

    def _state(self) -> tuple[object, ...]:
        process = self._processes[0].pid
        limit = resource.prlimit(process, resource.RLIMIT_NOFILE)
        return limit, os.getpriority(os.PRIO_PROCESS, process), os.sched_getaffinity(process)

    def _is_locked(self) -> bool:
        try:
            with (self._folder / "tree" / "lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    async def _hear(self, reader: StreamReader, writer: StreamWriter) -> None:
        line = await reader.readline()
        self._reached.add(line.decode(errors="replace").strip())
        writer.close()

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for receiver in self._datagrams:
            receiver.close()
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _local(*addresses: str) -> Iterator[socket.socket]:
    for address in addresses:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        yield listener

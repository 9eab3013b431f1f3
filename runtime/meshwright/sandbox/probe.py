"""Tries a box before it is used: runs the attempts in it, and looks which of them got out."""

from __future__ import annotations

import asyncio
import fcntl
import json
import secrets
import shutil
import socket
import tempfile
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from meshwright.core.errors import ToolFailed
from meshwright.sandbox.environment import Interpreter
from meshwright.sandbox.execution import BoxJob
from meshwright.sandbox.port import BoxLimits, SandboxResult

ATTEMPTS = files("meshwright.sandbox").joinpath("attempts.py").read_text()
_LIMITS = BoxLimits(seconds=30.0, memory_mb=512, processes=64, file_mb=8)
MODE = 0o600
_ANSWER_SECONDS = 0.2


class Box(Protocol):
    """One kind of box."""

    name: str
    about: str
    """The program or the part of the kernel that it rests on, with its version."""
    filter: bytes
    """Its filter of system calls."""
    has_network: bool

    async def run(self, job: BoxJob) -> SandboxResult:
        """Run a job in it."""
        ...


class Bait:
    """Outside of the box: files, processes and sockets, and whether an attempt has reached them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret, self.readable = folder / "secret", folder / "readable" / "file"
        self.marker = secrets.token_hex(16)
        self.processes: list[Process] = []
        self.reached = set[str]()
        self._servers: list[asyncio.Server] = []

    async def start(self, interpreter: Interpreter) -> dict[str, Any]:
        """Lay it out. Returns its description for the attempts."""
        (self.folder / "tree").mkdir()
        self.readable.parent.mkdir()
        for file in (self.secret, self.readable):
            file.write_text(self.marker)
            file.chmod(MODE)
        abstract = f"meshwright-{self.marker}"
        tcp = socket.create_server(("127.0.0.1", 0))
        listeners = [tcp, *_local(f"\0{abstract}", str(self.folder / "socket"))]
        self._servers = [await asyncio.start_server(self._receive, sock=listener) for listener in listeners]
        sign = f"bait={self.marker}"
        for _ in range(2):
            process = await asyncio.create_subprocess_exec(
                *(*interpreter.command("import sys; sys.stdin.read()"), sign),
                stdin=PIPE,
                stdout=DEVNULL,
                env={"bait": self.marker},
            )
            self.processes.append(process)
        return {
            "marker": self.marker,
            "folder": str(self.folder),
            "secret": str(self.secret),
            "readable": str(self.readable),
            "tcp": tcp.getsockname()[1],
            "abstract": abstract,
            "process": self.processes[0].pid,
            "victim": self.processes[1].pid,
            "file_mb": _LIMITS.file_mb,
        }

    async def affected(self) -> set[str]:
        """The attempts whose effect is seen outside."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self.processes[1].wait()
        return self.reached | {name for name, is_out in self.effects().items() if is_out()}

    def effects(self) -> Mapping[str, Callable[[], bool]]:
        """Returns, by the names of attempts, what shows that one got out."""
        return {
            "change_modes_of_what_it_reads": lambda: self.readable.stat().st_mode & 0o777 != MODE,
            "write_outside": lambda: (self.folder / "written").exists(),
            "outlive_the_box": self._is_locked,
            "kill_others": lambda: self.processes[1].returncode is not None,
        }

    def _is_locked(self) -> bool:
        try:
            with (self.folder / "tree" / "lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    async def _receive(self, reader: StreamReader, writer: StreamWriter) -> None:
        line = await reader.readline()
        self.reached.add(line.decode(errors="replace").strip())
        writer.close()

    async def stop(self) -> None:
        """Take it away, but for the folder."""
        for server in self._servers:
            server.close()
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def broken_out_of(
    box: Box,
    interpreter: Interpreter | None = None,
    *,
    source: str = ATTEMPTS,
    make_bait: Callable[[Path], Bait] = Bait,
) -> list[str]:
    """The names of the attempts that got out of a box; `attempts.NAMES` has all.

    `source` is the program that makes them. Raises ToolFailed where the box cannot be started, or did not let
    the attempts end.
    """
    interpreter = interpreter or Interpreter.own()
    with _folder() as folder:
        bait = make_bait(folder)
        try:
            description = json.dumps(await bait.start(interpreter))
            argv = [*interpreter.command(source), description]
            finished = await box.run(BoxJob(argv, folder / "tree", _LIMITS, {}, [folder / "readable"]))
            lines = finished.output.splitlines() or [""]
            try:
                inside = json.loads(lines[-1])
            except ValueError:
                why = finished.ended_by or lines[-1] or f"status {finished.status}"
                raise ToolFailed(f"The break-outs did not run in the box: {why}") from None
            return list(dict.fromkeys((*inside, *sorted(await bait.affected()))))
        finally:
            await bait.stop()


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="meshwright-probe-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _local(*addresses: str) -> Iterator[socket.socket]:
    for address in addresses:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        yield listener

"""Runs one program in a box: starts it, bounds it, and leaves nothing of it behind.

Every box has the same system files, variables and interpreter.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

from msgspec.structs import replace

from meshwright.agents.sandbox.port import ADDRESS, BoxConnection, BoxLimits, BoxServer, SandboxResult
from meshwright.agents.sandbox.process import ControlGroup, Overrun, watch
from meshwright.core.errors import ToolFailed

START = files("meshwright.agents.sandbox").joinpath("start.py").read_text()
"""The source of the first program in a box, which gets it as an argument: the box need not have our files."""
PROXY_VARIABLES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_CHUNK_BYTES = 65_536
_START_SECONDS = 30.0
_END_SECONDS = 10.0
_FLOOD = 20  # times the output that is kept
_CREDENTIALS = struct.Struct("3i")
_MEGABYTE = 1024 * 1024
_MAX_REASON = 500
_MAX_FILES = 4096  # that a process may open
# Without a control group nothing counts the buffers of the kernel, half a megabyte for a pair of sockets.
_MAX_FILES_UNCOUNTED, _MAX_PROCESSES_UNCOUNTED = 256, 64
_Ending = Literal["", "time", "memory", "processes", "output"]
SYSTEM_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FILES_OF_ETC = (
    "alternatives ca-certificates debian_version fonts ld.so.cache ld.so.conf ld.so.conf.d localtime "
    "mime.types pki/ca-trust pki/tls/certs pki/tls/openssl.cnf ssl/certs ssl/openssl.cnf terminfo timezone "
    "protocols services"
)
SYSTEM_FILES = tuple(Path("/etc", name) for name in _FILES_OF_ETC.split())
"""The files of /etc that programs read; none of them holds a secret."""
_PATH = (
    *("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
    "/usr/local/go/bin",  # where Go's own archive is unpacked
)
_HOME = "home = "


class BoxJob(NamedTuple):
    """One run: the program, the folders, the limits, and the server that it may call: a proxy, or ours."""

    argv: Sequence[str]
    tree: Path
    limits: BoxLimits
    environment: Mapping[str, str]
    readable: Sequence[Path]
    proxy: BoxServer | None = None
    connection: BoxConnection | None = None

    @property
    def server(self) -> BoxServer | None:
        """All that is in its network."""
        return self.connection.server if self.connection else self.proxy

    @property
    def writable(self) -> Sequence[Path]:
        """The folders that it may write to."""
        return (self.tree, self.connection.home) if self.connection else (self.tree,)

    def environment_in(self, scratch: str) -> dict[str, str]:
        """Its own variables, and where its home is."""
        return {"HOME": str(self.connection.home) if self.connection else scratch, **self.environment}

    @property
    def listens(self) -> dict[str, Any]:
        """The part of an order that says how the program learns the address of its server."""
        return {"listens": PROXY_VARIABLES if self.proxy else (), "mark": ADDRESS if self.connection else ""}


class BoxPlan(NamedTuple):
    """How a box starts a job: the command, the order for the first program in it, and how it is ended.

    `end` says by which means: killing the `group` of the process, or the `init` of the box, which is the
    parent of the command and the last to end, or by closing the `control` socket. `processes` are those that
    the kernel counts beside the job's.
    """

    command: Sequence[str]
    order: dict[str, Any]
    end: Literal["group", "init", "control"]
    processes: int
    descriptors: Sequence[int] = ()


def _resource_limits(limits: BoxLimits, others: int, files: int) -> dict[str, int]:
    """The limits of each process, by the names of `resource`."""
    return {
        "RLIMIT_DATA": limits.memory_mb * _MEGABYTE,
        "RLIMIT_FSIZE": limits.file_mb * _MEGABYTE,
        "RLIMIT_NPROC": others + limits.processes,
        "RLIMIT_NOFILE": files,
        "RLIMIT_CORE": 0,
    }


async def execute(job: BoxJob, plan: BoxPlan) -> SandboxResult:
    """Run a job by a plan. Raises ToolFailed where the box or the program cannot be started."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with ours:
        with theirs:
            process = _start(plan, theirs.fileno(), job.connection)
        return await _BoxRun(job, plan, process, ours).finish()


def _start(plan: BoxPlan, control: int, connection: BoxConnection | None) -> subprocess.Popen[bytes]:
    # Not by the event loop: uvloop's processes inherit more files than are passed.
    try:
        return subprocess.Popen(
            [*plan.command, str(control)],
            pass_fds=(control, *plan.descriptors),
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL if connection is None else connection.stdin.fileno(),
            stdout=subprocess.PIPE if connection is None else connection.stdout.fileno(),
            stderr=subprocess.STDOUT if connection is None else subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolFailed(f"{plan.command[0]} cannot be started: {error.strerror}") from error


class _BoxRun:
    def __init__(
        self, job: BoxJob, plan: BoxPlan, process: subprocess.Popen[bytes], control: socket.socket
    ) -> None:
        self._job = job
        self._limits = job.limits
        self._plan = plan
        self._process = process
        self._exit = os.pidfd_open(process.pid)
        self._is_over = False
        self._control = control
        self._output = _BoundedOutput(job.limits.output_bytes)
        self._ended_by: _Ending = ""
        self._init: int | None = None
        self._group: ControlGroup | None = None
        self._watch: asyncio.Task[None] | None = None

    async def finish(self) -> SandboxResult:
        began = time.monotonic()
        reading = asyncio.create_task(self._read())
        try:
            await self._begin(reading)
            began = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._job.limits.seconds):
                    await self._wait()
            if not self._is_over:
                self._end("time")
        finally:
            await asyncio.shield(asyncio.create_task(self._clean_up(reading)))
        self._check_started()
        seconds = time.monotonic() - began
        text, is_cut = self._output.text()
        status = self._process.returncode or 0
        status = 128 - status if status < 0 else status
        refused = tuple(self._job.server.refused) if self._job.server else ()
        return SandboxResult(
            None if self._ended_by else status, text, is_cut, self._ended_by, round(seconds, 3), refused
        )

    async def _begin(self, reading: asyncio.Task[None]) -> None:
        """Have the program begin, once it is bounded."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                loop = asyncio.get_running_loop()
                order = json.dumps(self._plan.order | {"limits": self._bound()})
                with suppress(BrokenPipeError, ConnectionResetError):
                    await loop.sock_sendall(self._control, order.encode() + b"\n")
                answer, descriptors, starter = await self._receive()
                if answer != b"ready":
                    await self._fail(answer, reading)
                if self._plan.end == "init":
                    self._init = os.pidfd_open(_parent_process(starter))
                if self._group is not None:
                    self._group.add(starter)
                else:
                    self._watch = asyncio.create_task(watch(self._process.pid, self._limits, self._end))
                if descriptors and self._job.server is not None:
                    await self._job.server.serve(socket.socket(fileno=descriptors[0]))
                await loop.sock_sendall(self._control, b"go")
        except TimeoutError:
            raise ToolFailed(f"The box did not start within {_START_SECONDS:g} seconds") from None
        except OSError as error:
            raise ToolFailed(f"The box cannot be bounded: {error}") from error

    def _bound(self) -> dict[str, int]:
        """Make the control group where that is possible; returns the limits of each process."""
        self._group = ControlGroup.make(self._limits)
        if self._group is not None:
            return _resource_limits(self._limits, self._plan.processes, _MAX_FILES)
        processes = min(self._limits.processes, _MAX_PROCESSES_UNCOUNTED)
        self._limits = replace(self._limits, processes=processes)
        return _resource_limits(self._limits, self._plan.processes, _MAX_FILES_UNCOUNTED)

    async def _receive(self) -> tuple[bytes, list[int], int]:
        """The first program's answer, the descriptors that it sends, and its id as we see it."""
        await _until_readable(self._control)
        room = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(_CREDENTIALS.size)
        try:
            answer, ancillary, _, _ = self._control.recvmsg(_CHUNK_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return b"", [], 0
        descriptors, process = list[int](), 0
        for _, kind, data in ancillary:
            if kind == socket.SCM_CREDENTIALS:
                process = _CREDENTIALS.unpack(data)[0]
            elif kind == socket.SCM_RIGHTS:
                descriptors += struct.unpack(f"{len(data) // 4}i", data)
        return answer, descriptors, process

    async def _fail(self, answer: bytes, reading: asyncio.Task[None]) -> None:
        if answer.startswith(b"failed: "):
            raise ToolFailed(f"The box cannot be closed: {answer.decode(errors='replace')[8:]}")
        await reading  # it has ended, and its last words are its reason
        reason = self._output.text()[0].strip()[-_MAX_REASON:]
        raise ToolFailed(f"The box does not start: {reason or 'it ended without a word'}")

    def _check_started(self) -> None:
        """Raises ToolFailed where the program that was asked for could not be started."""
        with suppress(BlockingIOError, ConnectionResetError, OSError):
            answer = self._control.recv(_CHUNK_BYTES)
            if answer.startswith(b"failed: "):
                reason = answer.decode(errors="replace")[8:]
                raise ToolFailed(f"{self._job.argv[0]} cannot be started in the box: {reason}")

    async def _read(self) -> None:
        reader = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout or self._process.stderr
        )
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                self._output.add(chunk)
                if self._output.count > _FLOOD * self._job.limits.output_bytes:
                    self._end("output")
        finally:
            pipe.close()

    async def _wait(self) -> None:
        """Wait until the process has ended. It is not reaped yet, so that its id stays its own."""
        await _until_readable(self._exit)
        self._is_over = True

    def _end(self, reason: Overrun | Literal["time", "output"]) -> None:
        self._ended_by = self._ended_by or reason
        self._stop()

    def _stop(self) -> None:
        with suppress(OSError):  # it has ended
            if self._plan.end == "control":
                self._control.shutdown(socket.SHUT_RDWR)  # what the first program said is still read
            elif self._init is not None:
                signal.pidfd_send_signal(self._init, signal.SIGKILL)
            else:
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _clean_up(self, reading: asyncio.Task[None]) -> None:
        self._stop()
        if self._watch is not None:
            self._watch.cancel()
        if self._job.server is not None:
            await self._job.server.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._wait()
                if self._init is not None:
                    await _until_readable(self._init)
        except TimeoutError:
            signal.pidfd_send_signal(self._exit, signal.SIGKILL)
            await self._wait()
        self._stop()  # what is left of its group, as long as its id is its own
        self._process.wait()
        for descriptor in filter(None, (self._exit, self._init)):
            os.close(descriptor)
        if self._group is not None:
            if self._process.returncode and not self._ended_by and self._group.has_overrun():
                self._ended_by = "memory"  # since the kernel killed a process
            await self._group.remove()
        with suppress(TimeoutError, asyncio.CancelledError):  # without a box a program may hold the pipe open
            async with asyncio.timeout(_END_SECONDS):
                await reading


class _BoundedOutput:
    """Keeps the head and the tail of what a program writes."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, chunk: bytes) -> None:
        self.count += len(chunk)
        room = self._limit // 2 - len(self._head)
        self._head += chunk[: max(0, room)]
        self._tail += chunk[max(0, room) :]
        if len(self._tail) > 2 * self._limit:
            del self._tail[: -self._limit]

    def text(self) -> tuple[str, bool]:
        room = self._limit - len(self._head)
        if len(self._head) + len(self._tail) == self.count and len(self._tail) <= room:
            return (self._head + self._tail).decode(errors="replace"), False
        tail = self._tail[-room:] if room else b""
        left_out = self.count - len(self._head) - len(tail)
        parts = (self._head.decode(errors="replace"), tail.decode(errors="replace"))
        return f"\n[{left_out:,} bytes are left out here]\n".join(parts), True


def _parent_process(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


async def _until_readable(sock: socket.socket | int) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(sock, lambda: readable.done() or readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(sock)


class Interpreter:
    """A Python that can run in a box: its program, and the folder that it needs where that is not /usr."""

    def __init__(self, program: Path) -> None:
        self.program = program.resolve()
        prefix = self.program.parents[1]
        self.folders: Sequence[Path] = () if prefix.is_relative_to("/usr") else (prefix,)

    @classmethod
    def own(cls) -> Interpreter:
        """That of the mesh."""
        return cls(Path(sys.executable))

    def command(self, source: str) -> list[str]:
        """The command that runs some source, without packages and without regard to its surroundings."""
        return [str(self.program), "-I", "-S", "-c", source]


def with_bases(folders: Iterable[Path]) -> list[Path]:
    """The folders, and for each virtual environment among them the Python that it was made of."""
    readable = list[Path]()
    for folder in folders:
        readable.append(folder)
        try:
            lines = (folder / "pyvenv.cfg").read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        homes = [Path(line.removeprefix(_HOME)) for line in lines if line.startswith(_HOME)]
        readable += [home.parent for home in homes if not home.is_relative_to("/usr")]
    return readable


def program_environment(
    readable: Sequence[Path], interpreter: Interpreter, scratch: str, own: Mapping[str, str]
) -> dict[str, str]:
    """The variables of a program in a box; the call's own win.

    On PATH are first the folders `bin` that it may read, last the `bin` of the mesh's own Python.
    """
    programs = [folder / "bin" for folder in readable]
    path = [*(str(folder) for folder in programs if folder.is_dir()), *_PATH, str(interpreter.program.parent)]
    usual = {"PATH": ":".join(path), "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8"}
    return usual | {"GIT_CONFIG_NOSYSTEM": "1"} | dict(own)

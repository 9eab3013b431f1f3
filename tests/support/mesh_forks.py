"""Starts `mesh` as forks of one program that has everything imported, so that a start costs no imports.

The program starts with the first command, or beside the collection of tests, and the forks of pytest share
it. It ends when they have. A fork has the arguments, the environment, the folder and the streams that it is
given, and a process id of its own to be killed by.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import gc
import importlib
import io
import json
import mimetypes
import os
import pkgutil
import runpy
import signal
import socket
import sys
import tempfile
import threading
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn

IMPORTED = (
    "mesh.app cli edges agents engine.events models mesh money parts toolsets engine.sql "
    "engine.stores.postgres"
)
LIBRARIES = (
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "pydantic.v1",
    "uvicorn.lifespan.off",
    "uvloop",
)
"""Modules and packages of which a command imports some. None starts a thread or loads a large library."""


class Forked:
    """A process of `mesh`, with what tests use of `asyncio.subprocess.Process`."""

    def __init__(self, pid: int, status: asyncio.StreamReader) -> None:
        self.pid = pid
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self.returncode: int | None = None
        self._ended = asyncio.create_task(self._end(status))

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    terminate = functools.partialmethod(send_signal, signal.SIGTERM)
    kill = functools.partialmethod(send_signal, signal.SIGKILL)

    async def communicate(self) -> tuple[bytes, bytes]:
        """All that it writes, once it has ended."""
        assert self.stdout is not None and self.stderr is not None
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return out, err

    async def _end(self, status: asyncio.StreamReader) -> int:
        self.returncode = _read_end(await status.read())
        return self.returncode


def is_plain(*streams: object) -> bool:
    """Whether a fork can have such streams. A descriptor may be of a terminal, which needs a real start."""
    return all(stream in (None, PIPE, DEVNULL) or not isinstance(stream, int) for stream in streams)


async def fork(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path,
    *,
    stdin: bytes = b"",
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
) -> Forked:
    """Start `mesh`; its output goes as `create_subprocess_exec` has it."""
    readers: list[asyncio.StreamReader | None] = []
    writers: list[int] = []
    for stream, ours in ((stdout, 1), (stderr, 2)):
        reader = None
        if stream == PIPE:
            end, writer = os.pipe()
            reader = await _reader(end)
        elif stream == DEVNULL:
            writer = os.open(os.devnull, os.O_WRONLY)
        else:
            writer = os.dup(ours if stream is None else stream.fileno())
        readers.append(reader)
        writers.append(writer)
    status = await _reader(_begin(arguments, environment, cwd, _file(stdin), *writers))
    process = Forked(int(await status.readline()), status)
    process.stdout, process.stderr = readers
    return process


def run_forked(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, stdin: bytes = b""
) -> tuple[int, bytes, bytes]:
    """Run `mesh` to its end: its status, output and errors. Needs no loop."""
    out, err = _file(b""), _file(b"")
    status = _begin(arguments, environment, cwd, _file(stdin), os.dup(out), os.dup(err))
    with open(status, "rb") as told, open(out, "rb") as output, open(err, "rb") as errors:
        _, end = told.read().split(maxsplit=1)
        output.seek(0)
        errors.seek(0)
        return _read_end(end), output.read(), errors.read()


def start_program() -> None:
    """Start the program that forks now, for this process and those that it forks."""
    _program()


def processor_seconds() -> float:
    """The processor seconds of the commands that this process has seen end."""
    return _program().seconds if _program.cache_info().currsize else 0.0


def _read_end(end: bytes) -> int:
    """The status of a command that has ended."""
    code, seconds = end.split()
    _program().seconds += float(seconds)
    return int(code)


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    pipe = os.fdopen(descriptor, "rb", 0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    return reader


def _file(content: bytes) -> int:
    """A file without a name, to be read from its beginning."""
    descriptor = os.memfd_create("tests")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _begin(arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, *streams: int) -> int:
    """Start a fork with these streams, closed here. The pipe gives its id, then its status and seconds."""
    job = json.dumps({"arguments": [*arguments], "environment": {**environment}, "cwd": str(cwd)})
    pipe, told = os.pipe()
    descriptors = [told, _file(job.encode()), *streams]
    socket.send_fds(_program().jobs, [b"+"], descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return pipe


@dataclass
class Program:
    """The program that forks, by a socket that several processes may write to."""

    jobs: socket.socket
    seconds: float = 0.0
    """Processor seconds of its commands, as far as this process has seen them end."""


@functools.cache
def _program() -> Program:
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)
    os.posix_spawn(sys.executable, [sys.executable, __file__, str(theirs.fileno())], os.environ)
    theirs.close()
    return Program(ours)


def _serve(jobs: socket.socket) -> None:
    """Fork for each job, until nobody is left to give one."""
    for name in IMPORTED.split():
        _import_all(importlib.import_module(f"meshwright.{name}"))
    for name in LIBRARIES:
        importlib.import_module(name)
    mimetypes.init()  # reads files of the system
    _describe_toolsets()
    asyncio.run(_run_once())
    os.umask(0o022)  # the usual one
    gc.freeze()  # forks share the pages that no collection writes to
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that report
    while True:
        message, descriptors, *_ = socket.recv_fds(jobs, 1, 5)
        if not message:
            return
        if not os.fork():
            jobs.detach()
            _keep(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _import_all(package: ModuleType) -> None:
    for module in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _describe_toolsets() -> None:
    """Describe the methods of toolsets, as the first mesh of a process does that uses them."""
    from meshwright.agents.tools.functions import describe_method
    from meshwright.agents.tools.tool import MARK

    for name in [name for name in sys.modules if name.startswith("meshwright.toolsets.")]:
        for owner in vars(sys.modules[name]).values():
            for method in vars(owner).values() if isinstance(owner, type) else ():
                if hasattr(method, MARK):
                    describe_method(method)


async def _run_once() -> None:
    """Run a mesh, which makes the tables of new files, and what else the first one of a process does."""
    from meshwright.testing import mesh_for

    with tempfile.TemporaryDirectory() as project:
        async with mesh_for(project=Path(project)):
            pass


def _keep(told: int, job: int, *streams: int) -> None:
    """Fork the command, and report on it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not (pid := os.fork()):
        _become(job, *streams)
    try:
        os.closerange(0, told)
        os.closerange(told + 1, told + 64)
        os.write(told, f"{pid}\n".encode())
        _, status, usage = os.wait4(pid, 0)
        seconds = usage.ru_utime + usage.ru_stime
        os.write(told, f"{os.waitstatus_to_exitcode(status)} {seconds:.3f}".encode())
    finally:  # also where nobody listens any more
        os._exit(0)


def _become(job: int, *streams: int) -> None:
    """Be `mesh`, as a start of its own would be."""
    given = json.loads(Path(f"/proc/self/fd/{job}").read_text())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, max(job, *streams) + 64)
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["environment"])
    time.tzset()
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")[0]
    is_unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    for number, (name, mode) in enumerate((("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb"))):
        raw = open(number, mode, 0 if is_unbuffered and number else -1, closefd=False)  # noqa: SIM115
        settings = {"line_buffering": name == "stderr", "write_through": is_unbuffered}
        setattr(sys, name, io.TextIOWrapper(raw, encoding, **settings))
    paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:0] = [given["cwd"], *paths]
    sys.argv = ["mesh", *given["arguments"]]
    sys.orig_argv = [sys.executable, "-m", "meshwright.cli", *given["arguments"]]
    try:
        runpy.run_module("meshwright.cli", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, int):
            with suppress(OSError):  # Python's own end reports it
                _end(end.code)
        raise


def _end(status: int) -> NoReturn:
    """End as Python does, without taking modules apart, which copies most pages of the program."""
    threading._shutdown()  # type: ignore[attr-defined] # joins threads, as multiprocessing does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    _serve(socket.socket(fileno=int(sys.argv[1])))

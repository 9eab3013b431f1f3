"""Bounds programs: the time and output of one, and the memory and processes of a whole box.

`run` is no box: the program may do what its user may. A box is bounded by a control group, else by looking at
what its processes use.
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio import StreamReader
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Literal, NamedTuple, Self

from meshwright.agents.sandbox.port import BoxLimits
from meshwright.core.errors import ToolFailed

_CHUNK_BYTES = 65_536
_MAX_ERROR_BYTES = 4_096
_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "meshwright-box-"
_LOOK_SECONDS = 0.25
_PAUSE_SECONDS = 0.02
_TRIES = 250  # until the last process of a group has left it
_STARTING = 3  # processes of the box itself
_numbers = count()
Overrun = Literal["memory", "processes"]


class ProgramResult(NamedTuple):
    """How a program ended, and what it wrote; `is_cut` if that is not all of it."""

    status: int
    output: str
    errors: str
    is_cut: bool

    @property
    def is_killed(self) -> bool:
        """Whether it was killed since it had written more than the limit."""
        return self.is_cut and self.status == -signal.SIGKILL


async def run(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    timeout_seconds: float,
    max_output_bytes: int,
    input_text: str = "",
) -> ProgramResult:
    """Run a program in a folder, with that environment and `input_text` on stdin alone, and wait for its end.

    It is killed, with what it started, once it has written more than the limit, when its time is over
    (ToolFailed), and when the caller is cancelled. Raises ToolFailed too where it cannot be started.
    """
    try:
        with _stdin(input_text) as stdin:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=folder,
                env=dict(environment),
                stdin=stdin,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,
            )
    except OSError as error:
        raise ToolFailed(f"{command[0]} cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _finish(process, max_output_bytes)
    except BaseException as error:
        _kill(process)
        # Empties the pipes: while they hold something, the process is not over.
        await process.communicate()
        if isinstance(error, TimeoutError):
            raise ToolFailed(f"{command[0]} took longer than {timeout_seconds:g} seconds") from error
        raise


@contextmanager
def _stdin(text: str) -> Generator[IO[bytes] | int]:
    """A file: a pipe of uvloop is a socket, which nft cannot open as /dev/stdin."""
    if not text:
        yield DEVNULL
        return
    with TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file


async def _finish(process: Process, max_output_bytes: int) -> ProgramResult:
    assert process.stdout and process.stderr  # pipes, as asked for
    output, errors = await asyncio.gather(
        _read(process.stdout, max_output_bytes, lambda: _kill(process)),
        _read(process.stderr, _MAX_ERROR_BYTES, lambda: None),  # warnings beyond that are dropped
    )
    return ProgramResult(
        await process.wait(),
        output[:max_output_bytes].decode(errors="replace"),
        errors[:_MAX_ERROR_BYTES].decode(errors="replace"),
        len(output) > max_output_bytes,
    )


async def _read(stream: StreamReader, max_bytes: int, on_more: Callable[[], None]) -> bytes:
    data = bytearray()
    while chunk := await stream.read(_CHUNK_BYTES):
        if len(data) <= max_bytes:
            data += chunk
            if len(data) > max_bytes:
                on_more()
    return bytes(data)


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.killpg(process.pid, signal.SIGKILL)


class ControlGroup:
    """A control group for one run, of version 1 or 2, with its limits."""

    def __init__(self, folders: dict[str, Path], version: int) -> None:
        self._folders = folders
        self._version = version

    @classmethod
    def make(cls, limits: BoxLimits) -> Self | None:
        """A new group, or None where this process may not make one, or none with both limits."""
        name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        version = 2 if (_ROOT / "cgroup.controllers").exists() else 1
        for parents in _parents(version):
            group = cls({kind: parent / name for kind, parent in parents.items()}, version)
            try:
                group._set_up(limits)
            except OSError:
                group._take_down()
            else:
                return group
        return None

    def add(self, process: int) -> None:
        """Move a process into the group; its children will be in it too."""
        for folder in set(self._folders.values()):
            (folder / "cgroup.procs").write_text(str(process))

    def has_overrun(self) -> bool:
        """Whether the kernel ended a process of the group for its memory."""
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        with suppress(OSError):
            lines = (self._folders["memory"] / name).read_text().splitlines()
            return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in lines)
        return False

    async def remove(self) -> None:
        """Kill what is left in the group, and remove it."""
        for _ in range(_TRIES):
            for process in self._processes():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if self._take_down():
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    def _set_up(self, limits: BoxLimits) -> None:
        for folder in self._folders.values():
            folder.mkdir(exist_ok=True)
        memory = "memory.max" if self._version == 2 else "memory.limit_in_bytes"
        # Opened without creating: where a controller is missing, so is its file.
        _put(self._folders["memory"] / memory, limits.memory_mb * 1024 * 1024)
        _put(self._folders["pids"] / "pids.max", limits.processes + _STARTING)
        if self._version == 2:
            _put(self._folders["memory"] / "memory.oom.group", 1)
            with suppress(OSError):  # where the machine has no swap
                _put(self._folders["memory"] / "memory.swap.max", 0)

    def _processes(self) -> list[int]:
        with suppress(OSError):
            return [int(line) for line in (self._folders["pids"] / "cgroup.procs").read_text().split()]
        return []

    def _take_down(self) -> bool:
        for folder in set(self._folders.values()):
            with suppress(FileNotFoundError):
                try:
                    folder.rmdir()
                except OSError:
                    return False
        return True


def remove_left_over_groups() -> None:
    """Remove the groups of meshes that were killed."""
    version = 2 if (_ROOT / "cgroup.controllers").exists() else 1
    for parents in _parents(version):
        for parent in set(parents.values()):
            for folder in parent.glob(f"{_PREFIX}*-*"):
                if not Path(f"/proc/{folder.name.removeprefix(_PREFIX).partition('-')[0]}").exists():
                    with suppress(OSError):
                        folder.rmdir()


async def watch(process: int, limits: BoxLimits, end: Callable[[Overrun], None]) -> None:
    """Call `end` once what a process started, and it, use more than the limits. Looks four times a second."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        threads, kilobytes = await asyncio.to_thread(_measure_use, process)
        if threads > limits.processes + _STARTING:
            return end("processes")
        if kilobytes > limits.memory_mb * 1024:
            return end("memory")


def threads_of_user() -> int:
    """The threads that this user runs now: the kernel's limit of a user's processes counts all of them.

    Reads all of /proc, so call it in a thread.
    """
    return sum(status.threads for status in _statuses() if status.user == os.getuid())


class _Status(NamedTuple):
    process: int
    parent: int
    user: int
    threads: int
    kilobytes: int


def _measure_use(process: int) -> tuple[int, int]:
    """The threads and kilobytes of a process and all that it started."""
    statuses = {status.process: status for status in _statuses()}
    below = [status for status in statuses.values() if process in _ancestors(status, statuses)]
    return sum(status.threads for status in below), sum(status.kilobytes for status in below)


def _ancestors(status: _Status, statuses: dict[int, _Status]) -> Iterator[int]:
    visited = set[int]()
    while status.process not in visited:
        visited.add(status.process)
        yield status.process
        status = statuses.get(status.parent, status)


def _statuses() -> Iterator[_Status]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, KeyError):
                fields = dict(
                    line.split(":\t", 1) for line in Path(f"/proc/{entry}/status").read_text().splitlines()
                )
                amounts = [fields.get(name, "0").split()[0] for name in ("RssAnon", "RssShmem")]
                user, threads = fields["Uid"].split()[0], fields["Threads"]
                yield _Status(
                    int(entry), int(fields["PPid"]), int(user), int(threads), sum(map(int, amounts))
                )


def _parents(version: int) -> Iterator[dict[str, Path]]:
    """The groups below which one may be made: our own, and the top."""
    own = _own_groups()
    if version == 2:
        for place in (own.get("", "/"), "/"):
            folder = _ROOT / place.lstrip("/")
            yield {"memory": folder, "pids": folder}
    elif (_ROOT / "memory").is_dir() and (_ROOT / "pids").is_dir():
        yield {kind: _ROOT / kind / own.get(kind, "/").lstrip("/") for kind in ("memory", "pids")}
        yield {kind: _ROOT / kind for kind in ("memory", "pids")}


def _own_groups() -> dict[str, str]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return {}
    entries = [line.split(":", 2) for line in lines]
    return {kind: place for _, kinds, place in entries for kind in kinds.split(",")}


def _put(file: Path, value: int) -> None:
    with file.open("r+") as opened:
        opened.write(str(value))

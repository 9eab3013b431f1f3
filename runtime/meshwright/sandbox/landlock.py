"""The box of Landlock: no namespaces, so that it also works where those are not allowed, as in Docker.

It has no network at all, not even within itself, and no /proc; a program in it can learn which files the
machine has, but reads none that it was not given.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import tempfile
from pathlib import Path

from meshwright.core.errors import ToolFailed
from meshwright.sandbox.environment import (
    SYSTEM_FILES,
    SYSTEM_FOLDERS,
    Interpreter,
    environment_of,
    with_bases,
)
from meshwright.sandbox.execution import START, BoxJob, BoxPlan, execute
from meshwright.sandbox.groups import threads_of_user
from meshwright.sandbox.port import SandboxResult
from meshwright.sandbox.seccomp import filter_program, is_known_machine

_CREATE_RULESET, _VERSION = 444, 1
_LEAST_VERSION = 6  # the first that keeps signals in the box
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_SCRATCH = "meshwright-box-"


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
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    def _plan(self, job: BoxJob, scratch: str, threads: int) -> BoxPlan:
        readable = with_bases(job.readable)
        system = [Path("/", name) for name in SYSTEM_FOLDERS]
        order = {
            "argv": list(job.argv),
            "tree": str(job.tree),
            "environment": environment_of(readable, self._interpreter, scratch, job.environment),
            "listens": (),
            "seccomp": self.filter.hex(),
            "landlock": {
                "read": [
                    str(path) for path in (*system, *SYSTEM_FILES, *readable, *self._interpreter.folders)
                ],
                "write": [str(job.tree), scratch],
                "devices": _DEVICES,
            },
        }
        return BoxPlan(self._interpreter.command(START), order, "control", threads)


def remove_left_over() -> None:
    """Remove the folders of meshes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*-*"):
        process = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if not Path("/proc", process).exists() and folder.lstat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)

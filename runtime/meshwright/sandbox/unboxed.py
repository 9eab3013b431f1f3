"""No box: programs run as the mesh's user, within limits of time, memory and output alone."""

from __future__ import annotations

import asyncio
import sys

from meshwright.core.errors import ToolFailed
from meshwright.sandbox.environment import Interpreter, environment_of, with_bases
from meshwright.sandbox.execution import START, BoxJob, BoxPlan, execute
from meshwright.sandbox.groups import threads_of_user
from meshwright.sandbox.port import SandboxResult


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
        order = {
            "argv": list(job.argv),
            "tree": str(job.tree),
            "environment": environment_of(
                with_bases(job.readable), self._interpreter, str(job.tree), job.environment
            ),
            "listens": (),
            "seccomp": "",
            "landlock": None,
        }
        threads = await asyncio.to_thread(threads_of_user)
        return await execute(job, BoxPlan(self._interpreter.command(START), order, "group", threads))

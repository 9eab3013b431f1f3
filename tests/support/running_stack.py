"""`mesh up --store dapr` as a person sees it: a table on stderr, a URL on stdout, and how it ends."""

import asyncio
import os
import signal
import socket
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.mesh_forks import Forked
from tests.support.running_mesh import MESH, Errors, ready_url, start

UP = [*MESH, "up", "--host", "dapr", "--port", "0", "--data"]
HEADS = ["what", "where", "process"]


@dataclass
class RunningStack:
    """A stack that is ready."""

    url: str
    process: Process | Forked
    errors: Errors

    @property
    def pids(self) -> dict[str, int]:
        """The process of each service, by the table."""
        return {name: int(pid) for name, _, pid in self.rows if pid.isdigit()}

    @property
    def ports(self) -> list[int]:
        return [int(address.rpartition(":")[2]) for _, address, _ in self.rows]

    @property
    def rows(self) -> list[list[str]]:
        """The table of what runs where."""
        lines = [line.split() for line in self.errors.text.splitlines()]
        table = lines[lines.index(HEADS) + 1 :]
        return table[: next(number for number, row in enumerate(table) if row[0] == "logs:")]

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await self.process.wait()


@asynccontextmanager
async def stack_up(data: Path, *arguments: str, **environment: str) -> AsyncIterator[RunningStack]:
    process = await start([*UP, str(data), *arguments], environment, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None and process.stderr is not None
    errors = Errors(process.stderr)
    try:
        yield RunningStack(await ready_url(process.stdout, errors), process, errors)
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await process.wait()
        except asyncio.CancelledError:  # a test whose time is over leaves nothing to the next
            process.kill()
            await process.wait()
            raise
        finally:
            await errors.whole()


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    """Whether a process runs. One that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pids: list[int]) -> None:
    """Wait until none of the processes runs."""
    while any(lives(pid) for pid in pids):
        await asyncio.sleep(0.01)


def is_free(port: int) -> bool:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return taken.connect_ex(("127.0.0.1", port)) != 0


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def listening(pid: int) -> set[tuple[str, str]]:
    """The addresses of this process that others may call, TCP and UDP."""
    lines = subprocess.run(["ss", "-Hlntup"], capture_output=True, text=True, check=True).stdout.splitlines()
    local = [line.split()[4].rpartition(":") for line in lines if f"pid={pid}," in line]
    return {(host.strip("[]").removeprefix("::ffff:"), port) for host, _, port in local}

"""Drives one system from its own interpreter; measures rate, latency, CPU and memory of its tasks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

Submit = Callable[[], Awaitable[object]]
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
READY_SECONDS = 90.0
_MAX_SECONDS = 30.0  # of one number in flight, where few tasks end


class Plan(NamedTuple):
    """The numbers in flight, how long each is measured, and how long before that it runs."""

    in_flight: Sequence[int]
    seconds: float
    warm_up_seconds: float


class Running:
    """The processes of a system: each with those that it has started is a session of its own."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self.folder = Path(tempfile.mkdtemp(prefix="agent-task-", dir=os.environ.get("BENCH_FOLDER")))

    def start(self, *command: str | Path, cwd: Path | None = None, **environment: str) -> None:
        with (self.folder / f"log-{len(self._processes)}").open("wb") as log:
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=cwd,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)

    async def ready(self, port: int) -> None:
        """Return once something listens. Raises TimeoutError, or RuntimeError where a process has ended."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    for number, process in enumerate(self._processes):
                        if process.poll() is not None:
                            raise RuntimeError((self.folder / f"log-{number}").read_text()[-800:]) from None
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    def end(self) -> None:
        for process in reversed(self._processes):
            for sign in (signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    os.killpg(process.pid, sign)
                    try:
                        process.wait(10)
                    except subprocess.TimeoutExpired:
                        continue

    def used(self) -> tuple[float, float]:
        """Seconds of CPU and megabytes of memory of all these processes, with those that have ended.

        A database server whose data folder the environment names counts too.
        """
        sessions, ticks, pages = {process.pid for process in self._processes}, 0, 0
        server = os.environ.get("SERVER_DATA")
        server_pid = Path(server, "postmaster.pid").read_text().split("\n")[0] if server else None
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = place.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            if int(fields[3]) in sessions or server_pid in (fields[1], place.parent.name):
                ticks += sum(map(int, fields[11:15]))
                pages += int(fields[21])
        return ticks / TICKS, pages * PAGE / 1e6


def free_port() -> int:
    """A port that nothing has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def plan() -> Plan:
    """The plan of this side, from its command line."""
    return Plan(**json.loads(sys.argv[1]))


async def measure(submit: Submit, running: Running) -> None:
    """Run the plan, and print its figures."""
    figures: dict[str, float] = {}
    for in_flight in plan().in_flight:
        figures |= await _measure(submit, running, in_flight, plan())
    print(json.dumps(figures), flush=True)


async def _measure(submit: Submit, running: Running, in_flight: int, plan: Plan) -> Mapping[str, float]:
    latencies: list[float] = []
    stopping = False

    async def client() -> None:
        while not stopping:
            started = time.perf_counter()
            await submit()
            latencies.append(time.perf_counter() - started)

    clients = [asyncio.create_task(client()) for _ in range(in_flight)]
    await asyncio.wait(clients, timeout=plan.warm_up_seconds, return_when=asyncio.FIRST_EXCEPTION)
    del latencies[:]
    (cpu, _), own, started = running.used(), time.process_time(), time.perf_counter()
    seconds = 0.0
    while seconds < plan.seconds or (len(latencies) < in_flight and seconds < _MAX_SECONDS):
        await asyncio.wait(clients, timeout=plan.seconds, return_when=asyncio.FIRST_EXCEPTION)
        seconds = time.perf_counter() - started
    done = len(latencies)
    (cpu_after, memory), own_after = running.used(), time.process_time()
    stopping = True
    await asyncio.gather(*clients)
    return {
        f"rate_{in_flight}": done / seconds,
        f"p50_ms_{in_flight}": statistics.median(latencies) * 1000,
        f"cpu_ms_{in_flight}": (cpu_after - cpu + own_after - own) / max(1, done) * 1000,
        f"client_ms_{in_flight}": (own_after - own) / max(1, done) * 1000,
        f"memory_mb_{in_flight}": memory + _own_memory(),
    }


def _own_memory() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    """Processes that are ended at the end, and a folder."""
    processes = Running()
    try:
        yield processes
    finally:
        processes.end()

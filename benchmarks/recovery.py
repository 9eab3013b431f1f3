"""Kill -9 with 10,000 open tasks: how long until work goes on after the next start."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Round
from benchmarks.figures import Figure, Row, column
from benchmarks.instant import InstantModel, request
from benchmarks.lifecycle import stall_row
from benchmarks.load import watching_stalls
from benchmarks.sides import kill, side
from benchmarks.stand import BenchAgent, build_stand
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ModelRequest, OnDelta

TASKS = 10_000
IN_FLIGHT = 256
NEVER_SECONDS = 3600.0
WATCH_SECONDS = 2.0
MAX_SECONDS = 1.0


class SlowAgent(BenchAgent):
    """The same agent with the default number of slots: most of its tasks wait for one."""

    max_concurrency = None


class FirstCall(InstantModel):
    """Notes when it is called first."""

    def __init__(self) -> None:
        super().__init__()
        self.called = asyncio.Event()
        self.at = 0.0
        self.calls = 0

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.at = self.at or time.time()
        self.calls += 1
        self.called.set()
        return await super().complete(request)


async def measure(bench: Bench) -> list[Row]:
    tasks = bench.count(TASKS)
    with bench.folder() as folder:
        killed = folder / "killed"
        await fill(killed, tasks)

        async def start() -> Round:
            with bench.folder() as copy:
                shutil.copytree(killed, copy / "data")
                arguments = {"folder": str(copy / "data"), "spawned": time.time()}
                async with side("benchmarks.recovery:recover", **arguments) as running:
                    return await running.next()

        rounds = (await bench.in_turns({"ours": start}))["ours"]
    first = column(rounds, "from_spawn_s", "s", 2)
    imports = Figure([each["from_spawn_s"] - each["from_start_s"] for each in rounds], "s", 2)
    return [
        Row(
            f"kill -9 with {tasks:,} open tasks, until work goes on",
            first,
            target="<= 1 s",
            met=first.median <= MAX_SECONDS,
            note=f"from the start of the process; {imports} of it Python and imports; "
            f"{column(rounds, 'calls').median:,.0f} calls within {WATCH_SECONDS:.0f} s of the first",
        ),
        stall_row("longest event loop stall, recovery", column(rounds, "stall_ms", "ms", 1)),
    ]


async def fill(folder: Path, tasks: int) -> None:
    """Leave a folder as a killed mesh with so many open tasks leaves it."""
    async with side("benchmarks.recovery:accept", folder=str(folder), tasks=tasks) as running:
        await running.next()
        kill(running.process)
        await running.process.wait()


async def accept(folder: str, tasks: int) -> AsyncGenerator[dict[str, Any]]:
    """Accept tasks, and work on a few of them for ever."""
    stand = build_stand(folder, model=InstantModel(NEVER_SECONDS), agents=(SlowAgent,))
    await stand.mesh.start()
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def submit() -> None:
        async with slots:
            await stand.mesh.get(Tasks).submit(request())

    await asyncio.gather(*(submit() for _ in range(tasks)))
    yield {"open": tasks}


async def recover(folder: str, spawned: float) -> AsyncGenerator[dict[str, float]]:
    """Start on a killed mesh's folder; watch on for a while after the first call. Then it is killed too."""
    model = FirstCall()
    stand = build_stand(folder, model=model, agents=(SlowAgent,))
    started = time.time()
    async with watching_stalls() as stalls, stand.running():
        await model.called.wait()
        await asyncio.sleep(WATCH_SECONDS)
        yield {
            "from_spawn_s": model.at - spawned,
            "from_start_s": model.at - started,
            "calls": model.calls,
            "stall_ms": stalls.max_seconds * 1000,
        }

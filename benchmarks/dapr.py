"""A task's lifecycle on Dapr: one worker, one sidecar, MQTT and Redis, the gRPC channel.

1, 32 and 128 in flight, submitted and awaited in the worker's process, with a model that answers at once and
traces on. Each side gets services of its own, started for it: the same daprd, Mosquitto, and a Redis that
flushes every write.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from benchmarks.bench import Bench, Round
from benchmarks.dapr_floor import Floor
from benchmarks.dapr_ground import ground, missing
from benchmarks.dapr_load import at_each_level
from benchmarks.dapr_stand import build_dapr_stand
from benchmarks.figures import Row, column, compared
from benchmarks.floor import Writer
from benchmarks.instant import request
from benchmarks.lifecycle import stall_row
from benchmarks.load import watching_stalls
from benchmarks.sides import Side, side
from meshwright.cli.serving import collect_young

LEVELS = (1, 32, 128)
SECONDS, MIN_SECONDS = 2.5, 0.5
SETTLE_SECONDS = 2.0  # a log that has just begun waits so long for what others told before
MIN_SHARE = 0.6
MIN_RATE = {1: 0, 32: 350, 128: 450}
OURS, BY_HAND = "benchmarks.dapr:ours", "benchmarks.dapr:by_hand"
PROCESSES = ("worker", "daprd", "redis", "mosquitto", "placement", "scheduler")


async def measure(bench: Bench) -> list[Row]:
    if reason := missing():
        return [Row("lifecycle on Dapr", f"not run: {reason}")]
    timing = timing_of(bench, LEVELS)
    floor = partial(on_ground, bench, BY_HAND, timing=timing, sample=await bench.sample())
    rounds = await bench.in_turns(
        {
            "ours": partial(on_ground, bench, OURS, timing=timing),
            "floor": partial(floor, by_calls=True),
            "floor without calls": partial(floor, by_calls=False),
        }
    )
    ours, by_hand, bare = rounds.values()
    return [
        *(row("lifecycle on Dapr", level, ours, by_hand) for level in LEVELS),
        compared(
            "the same, 128 in flight, beside a floor without actor calls",
            column(ours, "rate_128", "tasks/s"),
            column(bare, "rate_128", "tasks/s"),
            note=f"CPU ms a task: floor {cpu(bare, 128)}",
        ),
        stall_row("longest event loop stall, Dapr", column(ours, "stall_ms", "ms", 1)),
    ]


def timing_of(bench: Bench, levels: Sequence[int]) -> dict[str, Any]:
    """How long to measure, and at which levels."""
    return {"levels": levels, "seconds": max(MIN_SECONDS, bench.seconds(SECONDS))}


def row(what: str, level: int, ours: Sequence[Round], floor: Sequence[Round], *, judged: bool = True) -> Row:
    """A row of one level: rates, and below them times and CPU."""
    minimum = MIN_RATE[level]
    times = {
        name: ", ".join(f"{each} {column(side, f'{each}_ms_{level}', 'ms', 1)}" for each in ("p50", "p99"))
        for name, side in (("ours", ours), ("floor", floor))
    }
    target = f">= {MIN_SHARE} and >= {minimum}/s" if minimum else f">= {MIN_SHARE}"
    return compared(
        f"{what}, {'one at a time' if level == 1 else f'{level} in flight'}",
        column(ours, f"rate_{level}", "tasks/s"),
        column(floor, f"rate_{level}", "tasks/s"),
        target=target if judged else "",
        meets=(lambda share, median: share >= MIN_SHARE and median >= minimum) if judged else None,
        note=f"{times['ours']}; floor {times['floor']}; "
        f"CPU ms a task: {cpu(ours, level)}; floor {cpu(floor, level)}",
    )


def cpu(rounds: Sequence[Round], level: int) -> str:
    """What a task costs each process."""
    medians = {name: column(rounds, f"cpu_{name}_{level}", digits=2).median for name in PROCESSES}
    each = ", ".join(f"{name} {value:.2f}" for name, value in medians.items() if value >= 0.01)
    return f"{sum(medians.values()):.2f} ({each})"


async def on_ground(
    bench: Bench,
    front: str,
    *,
    replica: str = "",
    replicas: int = 1,
    timing: Mapping[str, Any],
    protocol: str = "grpc",
    **known: Any,
) -> Round:
    """Run one side on services of its own: the worker that gets the load, and beside it perhaps replicas."""
    with bench.folder() as folder:
        async with AsyncExitStack() as stack:
            here = await stack.enter_async_context(
                ground(folder, workers=1 + replicas if replica else 1, protocol=protocol)
            )
            place, others = here.place(), list[Side]()
            for number in range(1, len(here.replicas)):
                own = made(folder / f"replica-{number}")
                other = side(replica, folder=own, place=here.place(number), **known)
                others.append(await stack.enter_async_context(other))
            place["pids"]["worker"] = [other.process.pid for other in others]
            first = side(front, folder=made(folder / "front"), place=place, **known, **timing)
            running = await stack.enter_async_context(first)
            await asyncio.gather(running.next(), *(other.next() for other in others))
            if others:
                await asyncio.sleep(SETTLE_SECONDS)
            return await running.next()


def made(folder: Path) -> str:
    """A new folder."""
    folder.mkdir()
    return str(folder)


async def ours(
    folder: str, place: dict[str, Any], seconds: float, levels: Sequence[int]
) -> AsyncGenerator[Mapping[str, float]]:
    """Our side."""
    stand = build_dapr_stand(folder, place)
    async with stand.running():
        yield {}
        async with watching_stalls() as stalls:
            seen = await at_each_level(stand.task, place, levels, seconds)
        yield {**seen, "stall_ms": stalls.max_seconds * 1000}


async def by_hand(
    folder: str,
    place: dict[str, Any],
    seconds: float,
    levels: Sequence[int],
    sample: dict[str, Any],
    by_calls: bool,
) -> AsyncGenerator[Mapping[str, float]]:
    """The floor's side."""
    log = Writer(Path(folder, "floor.db"))
    body = to_json(request())
    collect_young()
    async with Floor(place, sample, by_calls=by_calls, log=log).running() as floor:
        yield {}
        yield await at_each_level(lambda: floor.task(body), place, levels, seconds)

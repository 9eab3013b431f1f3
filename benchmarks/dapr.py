"""A task's whole road on Dapr: one worker, one sidecar, MQTT and Redis, the gRPC channel.

1, 32 and 128 in flight, submitted and awaited in the worker's process, with a model that answers at once and
traces on. Each side gets services of its own, started for it: the same daprd, Mosquitto, and a Redis that
flushes every write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from benchmarks.bench import Bench, Round
from benchmarks.dapr_floor import Floor
from benchmarks.dapr_ground import ground, missing
from benchmarks.dapr_load import LEVELS, at_each_level
from benchmarks.dapr_stand import build_dapr_stand
from benchmarks.figures import Row, column, compared
from benchmarks.floor import Writer
from benchmarks.instant import request
from benchmarks.load import watching_stalls
from benchmarks.road import stall_row
from benchmarks.sides import run_side
from meshwright.cli.serving import collect_seldom

SECONDS, MIN_SECONDS = 2.5, 1.5  # within less, none of 128 may end
MIN_SHARE = 0.6
MIN_RATE = {1: 0, 32: 350, 128: 450}
PROCESSES = ("worker", "daprd", "redis", "mosquitto", "placement", "scheduler")


async def measure(bench: Bench) -> list[Row]:
    if reason := missing():
        return [Row("whole road on Dapr", f"not run: {reason}")]
    sample, seconds = await bench.sample(), max(MIN_SECONDS, bench.seconds(SECONDS))
    by_hand = partial(on_ground, bench, "benchmarks.dapr:by_hand", sample=sample, seconds=seconds)
    rounds = await bench.in_turns(
        {
            "ours": partial(on_ground, bench, "benchmarks.dapr:ours", seconds=seconds),
            "floor": partial(by_hand, by_calls=True),
            "floor without calls": partial(by_hand, by_calls=False),
        }
    )
    ours, floor, bare = rounds.values()
    return [
        *(row("whole road on Dapr", level, ours, floor) for level in LEVELS),
        compared(
            "the same, 128 in flight, beside a floor without actor calls",
            column(ours, "rate_128", "tasks/s"),
            column(bare, "rate_128", "tasks/s"),
            note=f"CPU ms a task: floor {cpu(bare, 128)}",
        ),
        stall_row("longest event loop stall, Dapr", column(ours, "stall_ms", "ms", 1)),
    ]


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


async def on_ground(bench: Bench, function: str, **arguments: Any) -> Round:
    """Run one side beside a sidecar, on services of its own."""
    with bench.folder() as folder:
        own = folder / "worker"
        own.mkdir()
        async with ground(folder) as here:
            return await run_side(function, folder=str(own), place=here.place(), **arguments)


async def ours(
    folder: str, place: dict[str, Any], seconds: float, levels: Sequence[int] = LEVELS
) -> Mapping[str, float]:
    """Our side."""
    stand = build_dapr_stand(folder, place)
    async with stand.running(), watching_stalls() as stalls:
        seen = await at_each_level(stand.task, place, levels, seconds)
        return {**seen, "stall_ms": stalls.max_seconds * 1000}


async def by_hand(
    folder: str, place: dict[str, Any], sample: dict[str, Any], by_calls: bool, seconds: float
) -> Mapping[str, float]:
    """The floor's side."""
    log = Writer(Path(folder, "floor.db"))
    body = to_json(request())
    collect_seldom()
    async with Floor(place, sample, by_calls=by_calls, log=log).running() as floor:
        return await at_each_level(lambda: floor.task(body), place, LEVELS, seconds)

"""The lifecycle on Dapr with workers of one app, each beside its sidecar, that share the work.

Two are measured beside a floor of two, and the CPU that a task costs four beside that of one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.bench import Bench, Round
from benchmarks.dapr import BY_HAND, OURS, on_ground, row, timing_of
from benchmarks.dapr_floor import Floor
from benchmarks.dapr_ground import missing
from benchmarks.dapr_stand import build_dapr_stand
from benchmarks.figures import Figure, Row, compared
from meshwright.cli.serving import collect_young

LEVELS = (32, 128)
_PROCESSES = ("worker", "daprd")


async def measure(bench: Bench) -> list[Row]:
    if reason := missing():
        return [Row("two workers on Dapr", f"not run: {reason}")]
    on = partial(on_ground, bench, timing=timing_of(bench, LEVELS))
    of_ours = partial(on, OURS, replica="benchmarks.dapr_replicas:ours")
    by_hand = {"sample": await bench.sample(), "by_calls": True}
    rounds = await bench.in_turns(
        {
            "two": of_ours,
            "floor": partial(on, BY_HAND, replica="benchmarks.dapr_replicas:by_hand", **by_hand),
            "one": partial(on, OURS),
            "four": partial(of_ours, replicas=3),
        }
    )
    rates = [
        row("two workers on Dapr", level, rounds["two"], rounds["floor"], judged=False) for level in LEVELS
    ]
    return rates + [_cpu_row(level, rounds) for level in LEVELS]


def _cpu_row(level: int, rounds: Mapping[str, Sequence[Round]]) -> Row:
    """The CPU of workers and sidecars a task, of four workers beside one; two are in the note."""
    each = []
    for count in ("one", "two", "four"):
        worker, daprd = (_cpu(rounds[count], level, name).median for name in _PROCESSES)
        each.append(f"{count} {worker:.2f} + {daprd:.2f}")
    return compared(
        f"CPU of a task, four workers on Dapr beside one, {level} in flight",
        _cpu(rounds["four"], level, *_PROCESSES),
        _cpu(rounds["one"], level, *_PROCESSES),
        note=f"ms of workers + sidecars: {', '.join(each)}",
    )


def _cpu(rounds: Sequence[Round], level: int, *processes: str) -> Figure:
    sums = [sum(each[f"cpu_{name}_{level}"] for name in processes) for each in rounds]
    return Figure(sums, "ms", 2)


async def ours(folder: str, place: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """Our second worker, until it is killed."""
    async with build_dapr_stand(folder, place, front=False).running():
        yield {}
        yield {}


async def by_hand(
    folder: str, place: dict[str, Any], sample: dict[str, Any], by_calls: bool
) -> AsyncGenerator[dict[str, Any]]:
    """The floor's."""
    collect_young()
    async with Floor(place, sample, by_calls=by_calls, log=None).running():
        yield {}
        yield {}

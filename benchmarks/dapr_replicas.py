"""The lifecycle on Dapr with two workers of one app, each beside its sidecar, that share the work."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from benchmarks.bench import Bench
from benchmarks.dapr import BY_HAND, OURS, on_ground, row, timing_of
from benchmarks.dapr_floor import Floor
from benchmarks.dapr_ground import missing
from benchmarks.dapr_stand import build_dapr_stand
from benchmarks.figures import Row
from meshwright.cli.serving import collect_young

LEVELS = (32, 128)


async def measure(bench: Bench) -> list[Row]:
    if reason := missing():
        return [Row("two workers on Dapr", f"not run: {reason}")]
    on_two = partial(on_ground, bench, timing=timing_of(bench, LEVELS))
    by_hand = {"sample": await bench.sample(), "by_calls": True}
    rounds = await bench.in_turns(
        {
            "ours": partial(on_two, OURS, replica="benchmarks.dapr_replicas:ours"),
            "floor": partial(on_two, BY_HAND, replica="benchmarks.dapr_replicas:by_hand", **by_hand),
        }
    )
    return [
        row("two workers on Dapr", level, rounds["ours"], rounds["floor"], judged=False) for level in LEVELS
    ]


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

"""1,000 tasks in flight whose model takes a second: by Little's law 1,000 tasks/s, if nothing intervenes."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench
from benchmarks.figures import Row, column
from benchmarks.instant import InstantModel
from benchmarks.lifecycle import stall_row
from benchmarks.load import drive, watching_stalls
from benchmarks.stand import build_stand

IN_FLIGHT = 1000
MODEL_SECONDS = 1.0
SECONDS, WARM_UP_SECONDS = 3.0, 1.5
MIN_SHARE = 0.95


async def measure(bench: Bench) -> list[Row]:
    seconds = max(1.0, bench.seconds(SECONDS))
    rounds = await bench.in_turns({"ours": partial(bench.side, "benchmarks.waiting:ours", seconds=seconds)})
    rate = column(rounds["ours"], "rate", "tasks/s")
    ideal = IN_FLIGHT / MODEL_SECONDS
    share = rate.median / ideal
    return [
        Row(
            "1,000 tasks that wait 1 s for a model",
            rate,
            f"{ideal:,.0f} tasks/s (Little's law)",
            f"{share:.3f}",
            ">= 0.95",
            share >= MIN_SHARE,
            f"p50 {column(rounds['ours'], 'p50_ms', 'ms')}, p99 {column(rounds['ours'], 'p99_ms', 'ms')}",
        ),
        stall_row("longest event loop stall, 1,000 waiting", column(rounds["ours"], "stall_ms", "ms", 1)),
    ]


async def ours(folder: str, seconds: float) -> dict[str, float]:
    """Clients that start evenly over the first second, so that the model's answers come evenly too."""
    stand = build_stand(folder, model=InstantModel(MODEL_SECONDS))
    async with stand.running(), watching_stalls() as stalls:
        seen = await drive(
            stand.task,
            in_flight=IN_FLIGHT,
            seconds=seconds,
            warm_up_seconds=WARM_UP_SECONDS,
            spread_seconds=MODEL_SECONDS,
        )
    return {**seen.summary(), "stall_ms": stalls.max_seconds * 1000}

"""The lifecycle one task at a time: what it waits for is the disk, and little else."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Row, column
from benchmarks.machine import fsync_ms

SECONDS = 2.0
MAX_ADDED_MS = 2.0


async def measure(bench: Bench) -> list[Row]:
    sample = await bench.sample()
    seconds = bench.seconds(SECONDS)

    async def fsync() -> dict[str, float]:
        with bench.folder() as folder:
            return {"ms": fsync_ms(folder)}

    by_hand = partial(
        bench.side, "benchmarks.lifecycle:by_hand", sample=sample, commits=5, in_flight=1, seconds=seconds
    )
    rounds = await bench.in_turns(
        {
            "ours": partial(bench.side, "benchmarks.lifecycle:ours", in_flight=1, seconds=seconds),
            "fsync": fsync,
            "floor 5": by_hand,
        }
    )
    commits = sample["commits"]
    p50 = column(rounds["ours"], "p50_ms", "ms", 2)
    floor = Figure([commits * each["ms"] for each in rounds["fsync"]], "ms", 2)
    added = p50.median - floor.median
    five = column(rounds["floor 5"], "p50_ms", "ms", 2)
    return [
        Row(
            "lifecycle in process, one at a time, p50",
            p50,
            floor,
            f"+{added:.2f} ms",
            "<= fsyncs x fsync + 2 ms",
            added <= MAX_ADDED_MS,
            f"{commits:.1f} commits a task x fsync {column(rounds['fsync'], 'ms', 'ms', 2)}; "
            f"p99 {column(rounds['ours'], 'p99_ms', 'ms', 2)}; "
            f"hand-written, 5 commits: p50 {five}",
        )
    ]

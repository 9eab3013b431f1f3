"""A task's lifecycle in one process: submit -> orchestrator -> agent -> context -> model -> outcome -> log.

Traces on, every turn durable (WAL, synchronous FULL), 128 in flight.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Row, column, compared
from benchmarks.floor import Floor, Writer
from benchmarks.instant import InstantModel, request
from benchmarks.load import drive, watching_stalls
from benchmarks.machine import rss_mb
from benchmarks.stand import build_stand
from benchmarks.written import written
from meshwright.cli.serving import collect_young

IN_FLIGHT = 128
SECONDS, WARM_UP_SECONDS = 2.5, 1.0
MAX_STALL_MS = 50.0


async def measure(bench: Bench) -> list[Row]:
    sample = await bench.sample()
    seconds = bench.seconds(SECONDS)
    rounds = await bench.in_turns(
        {
            "ours": partial(bench.side, "benchmarks.lifecycle:ours", in_flight=IN_FLIGHT, seconds=seconds),
            **{
                f"floor {commits}": partial(
                    bench.side,
                    "benchmarks.lifecycle:by_hand",
                    sample=sample,
                    commits=commits,
                    in_flight=IN_FLIGHT,
                    seconds=seconds,
                )
                for commits in (5, 2)
            },
        }
    )
    ours, five, two = (rounds[name] for name in ("ours", "floor 5", "floor 2"))
    rate = column(ours, "rate", "tasks/s")
    return [
        compared(
            "lifecycle in process, 128 in flight",
            rate,
            column(five, "rate", "tasks/s"),
            target=">= 0.4 and >= 2,500/s",
            meets=lambda share, median: share >= 0.4 and median >= 2500,
            note=f"a task: ours {cost(ours)}; floor {cost(five)}, 5 commits awaited; "
            f"p50 {column(ours, 'p50_ms', 'ms', 1)}, floor {column(five, 'p50_ms', 'ms', 1)}",
        ),
        compared(
            "the same, beside a two-commit floor",
            rate,
            column(two, "rate", "tasks/s"),
            note=f"a task: floor {cost(two)}, 2 commits awaited",
        ),
        stall_row("longest event loop stall, 128 in flight", column(ours, "stall_ms", "ms", 1)),
    ]


def stall_row(what: str, stall: Figure) -> Row:
    """A stall is judged by its worst round."""
    worst = max(stall.values)
    return Row(what, stall, target="<= 50 ms, worst", met=worst <= MAX_STALL_MS)


def cost(rounds: list[dict[str, Any]]) -> str:
    """What a task costs one side."""
    return (
        f"{column(rounds, 'rows', 'rows', 1).median:.1f} rows, "
        f"{column(rounds, 'kilobytes').median:.1f} KB, {column(rounds, 'cpu_us').median:.0f} us CPU "
        f"({column(rounds, 'loop_us').median:.0f} loop)"
    )


async def ours(folder: str, in_flight: int, seconds: float) -> dict[str, float]:
    """Our side: `seconds` of it, after a warm-up."""
    stand = build_stand(folder)
    async with stand.running(), watching_stalls() as stalls:
        before, meter = await stand.written(), Meter(stand.writer_pid)
        seen = await drive(stand.task, in_flight=in_flight, seconds=seconds, warm_up_seconds=warm_up(seconds))
        used = meter.read()
        after = await stand.written()
    return {
        **seen.summary(),
        **per_task(before, after, used, seen.total),
        "stall_ms": stalls.max_seconds * 1000,
        "rss_mb": rss_mb(),
    }


async def by_hand(
    folder: str, sample: dict[str, Any], commits: int, in_flight: int, seconds: float
) -> dict[str, float]:
    """The floor's side."""
    writer = Writer(Path(folder, "floor.db"))
    floor = Floor(writer, sample, commits=commits, model=InstantModel())
    body = to_json(request())
    collect_young()

    async def task() -> None:
        assert await floor.finish(await floor.accept(body))

    before, meter = written(writer.connection), Meter()
    seen = await drive(task, in_flight=in_flight, seconds=seconds, warm_up_seconds=warm_up(seconds))
    used = meter.read()
    return {**seen.summary(), **per_task(before, written(writer.connection), used, seen.total)}


class Meter:
    """CPU that this process with its writer, and the loop's thread in it, have used since."""

    def __init__(self, writer_pid: int = 0) -> None:
        self._writer = Path(f"/proc/{writer_pid}/schedstat") if writer_pid not in (0, os.getpid()) else None
        self._process, self._thread = self._used(), time.thread_time()

    def read(self) -> dict[str, float]:
        return {"cpu": self._used() - self._process, "loop": time.thread_time() - self._thread}

    def _used(self) -> float:
        writer = 0.0 if self._writer is None else int(self._writer.read_text().split()[0]) / 1e9
        return time.process_time() + writer


def per_task(
    before: dict[str, float], after: dict[str, float], used: dict[str, float], tasks: int
) -> dict[str, float]:
    """What was written and used, for each task."""
    return {
        "rows": (after["rows"] - before["rows"]) / tasks,
        "kilobytes": (after["bytes"] - before["bytes"]) / tasks / 1000,
        "cpu_us": used["cpu"] / tasks * 1e6,
        "loop_us": used["loop"] / tasks * 1e6,
    }


def warm_up(seconds: float) -> float:
    """How long a side runs before it counts."""
    return min(WARM_UP_SECONDS, seconds)

"""Runs one benchmark in its shortest form: that a row can be measured, whatever it comes to."""

from pathlib import Path

import pytest

from benchmarks.__main__ import measure
from benchmarks.bench import Bench

SHORTEST = 0.15  # of a full run's time and counts; with less, a loaded machine ends no task in time


async def run_benchmark(name: str, root: Path) -> None:
    rows, broken = await measure([name], Bench(root, rounds=1, scale=SHORTEST), ends_at=float("inf"))

    assert not broken and rows, rows
    if missing := [row for row in rows if str(row.ours).startswith("not run")]:
        pytest.skip(str(missing[0].ours))

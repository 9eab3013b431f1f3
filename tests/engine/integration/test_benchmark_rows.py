"""Rows of `make bench` can be measured, each in its shortest form, and all can be loaded.

One is measured by default, which shows that the harness works, and each of them by `make soak`.
"""

from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, measure
from benchmarks.bench import Bench

SHORTEST = 0.15  # of a full run's time and counts; with less, a loaded machine ends no task in time


def row(name: str) -> object:
    soak = pytest.mark.soak("the harness is the same, and a row takes 10 to 40 s")
    needs = pytest.mark.needs("mosquitto", "redis-server", "daprd")
    marks = [soak] * (name != "single") + [needs] * name.startswith("dapr")
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_benchmark_can_be_loaded(name: str) -> None:
    assert callable(import_module(f"benchmarks.{name}").measure)


@pytest.mark.parametrize("name", [row(name) for name in BENCHMARKS])
async def test_benchmark_measures_its_rows(name: str, tmp_path: Path) -> None:
    rows, broken = await measure([name], Bench(tmp_path, rounds=1, scale=SHORTEST), ends_at=float("inf"))

    assert not broken and rows, rows
    if missing := [row for row in rows if str(row.ours).startswith("not run")]:
        pytest.skip(str(missing[0].ours))

"""Every row of `make bench` that needs no services can be measured."""

import pytest

from benchmarks.__main__ import BENCHMARKS
from tests.support.benchmark_rows import run_benchmark


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if not name.startswith("dapr")])
async def test_benchmark_measures_its_rows(name, tmp_path):
    await run_benchmark(name, tmp_path)

"""Rows of `make bench` on Dapr can be measured; `BENCHMARK_ROWS=all` measures each of them."""

import os

import pytest

from benchmarks.__main__ import BENCHMARKS
from tests.support.benchmark_rows import run_benchmark

ON_DAPR = sorted(name for name in BENCHMARKS if name.startswith("dapr"))
ROWS = ON_DAPR if os.environ.get("BENCHMARK_ROWS") == "all" else ["dapr_replicas"]
"""By default the one whose stand most others use: two workers, and a floor beside them."""
pytestmark = pytest.mark.needs("mosquitto", "redis-server", "daprd")


@pytest.mark.parametrize("name", ROWS)
async def test_benchmark_measures_its_rows(name, tmp_path):
    await run_benchmark(name, tmp_path)

"""Every row of `make bench` on Dapr can be measured."""

import pytest

from benchmarks.__main__ import BENCHMARKS
from tests.support.benchmark_rows import run_benchmark

ON_DAPR = {name for name in BENCHMARKS if name.startswith("dapr")}
pytestmark = [pytest.mark.needs("mosquitto", "redis-server", "daprd"), pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", sorted(ON_DAPR - {"dapr_failover"}))
async def test_benchmark_measures_its_rows(name, tmp_path):
    await run_benchmark(name, tmp_path)

"""The rows of `make bench` that kill a worker on Dapr can be measured."""

import pytest

from tests.support.benchmark_rows import run_benchmark

pytestmark = [pytest.mark.needs("mosquitto", "redis-server", "daprd"), pytest.mark.timeout(300)]


async def test_failover_benchmark_measures_its_rows(tmp_path):
    await run_benchmark("dapr_failover", tmp_path)

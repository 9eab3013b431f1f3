"""Every test that takes a `harness` runs once for each host in the table."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright.testing import ManualClock
from tests.support.fake_provider_fixtures import fake
from tests.support.host_harness import HARNESSES, PARTLY, DaprHarness, HostHarness
from tests.support.model_adapters import adapter, any_api, calling
from tests.support.worker_pool import Script, StartWorkers, WorkerPool

__all__ = ["adapter", "any_api", "calling", "fake", "harness", "start_workers"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a host is not tried on."""
    left_out = [item for item in items if is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def is_left_out(item: pytest.Item) -> bool:
    name = (
        item.callspec.params.get("harness")
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else None
    )
    modules = PARTLY.get(name) if name else None
    return modules is not None and item.path.stem not in modules


@pytest.fixture(params=list(HARNESSES))
async def harness(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> AsyncIterator[HostHarness]:
    sort, number = HARNESSES[request.param]
    services = [request.getfixturevalue("services")] if issubclass(sort, DaprHarness) else []
    harness = sort(tmp_path, seed + number, *services)
    yield harness
    await harness.close()


@pytest.fixture
async def start_workers(harness: HostHarness) -> AsyncIterator[StartWorkers]:
    """Opens a host with a pool that works by a script."""
    pools: list[WorkerPool] = []

    async def start_workers(
        script: Script, *, clock: ManualClock | None = None, **options: Any
    ) -> WorkerPool:
        pool = WorkerPool(harness, script, **options)
        pools.append(pool)
        await pool.open(clock)
        return pool

    yield start_workers
    for pool in pools:
        await pool.close()

"""Every test that takes a `harness` runs once for each host in the table."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright.engine.work import slots, worker
from meshwright.testing import ManualClock
from tests.support.event_logs import LogOnFile, open_log
from tests.support.fake_provider_fixtures import fake
from tests.support.harness import HARNESSES, OF_ONE_WORKER, PARTLY, WITHOUT, DaprHarness, RuntimeHarness
from tests.support.model_adapters import adapter, any_api, calling
from tests.support.postgres import Location
from tests.support.postgres_harness import PostgresHarness
from tests.support.worker_pool import Script, StartWorkers, WorkerPool

SERVICES: dict[type[RuntimeHarness], str] = {DaprHarness: "services", PostgresHarness: "postgres"}
"""The fixture that a sort of host needs."""

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
    if name is None or not isinstance(item, pytest.Function):
        return False
    modules = PARTLY.get(name)
    is_elsewhere = modules is not None and item.path.stem not in modules
    left_out = {*OF_ONE_WORKER.get(name, ()), *WITHOUT.get(name, ())}
    return is_elsewhere or not left_out.isdisjoint((item.originalname, item.path.stem))


@pytest.fixture(params=list(HARNESSES))
async def harness(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> AsyncIterator[RuntimeHarness]:
    sort, number = HARNESSES[request.param]
    service = next((name for needs, name in SERVICES.items() if issubclass(sort, needs)), None)
    services = [] if service is None else [request.getfixturevalue(service)]
    harness = sort(tmp_path, seed + number, *services)
    yield harness
    await harness.close()


@pytest.fixture
async def store(location: Location) -> AsyncIterator[LogOnFile]:
    """An event log in a database of each kind."""
    async with open_log(location) as store:
        yield store


@pytest.fixture
async def start_workers(
    harness: RuntimeHarness, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StartWorkers]:
    """Opens a host with a pool that works by a script, and starts again soon what ended with its process."""
    monkeypatch.setattr(slots, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(worker, "ADOPTION_PAUSE_SECONDS", 0.05)
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

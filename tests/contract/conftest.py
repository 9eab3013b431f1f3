"""Every test that takes a `stand` runs once for each host in the table."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright.testing import ManualClock
from tests.contract.adapters import adapter, any_api, calling
from tests.contract.crew import Crew, Hire, Script
from tests.contract.stands import PARTLY, STANDS, DaprStand, Stand
from tests.providers.fixtures import fake

__all__ = ["adapter", "any_api", "calling", "fake", "hire", "stand"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a host is not tried on."""
    left_out = [item for item in items if is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def is_left_out(item: pytest.Item) -> bool:
    name = (
        item.callspec.params.get("stand")
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else None
    )
    modules = PARTLY.get(name) if name else None
    return modules is not None and item.path.stem not in modules


@pytest.fixture(params=list(STANDS))
async def stand(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> AsyncIterator[Stand]:
    sort, number = STANDS[request.param]
    services = [request.getfixturevalue("services")] if issubclass(sort, DaprStand) else []
    stand = sort(tmp_path, seed + number, *services)
    yield stand
    await stand.close()


@pytest.fixture
async def hire(stand: Stand) -> AsyncIterator[Hire]:
    """Opens a host with a crew that works by a script."""
    crews: list[Crew] = []

    async def hire(script: Script, *, clock: ManualClock | None = None, **options: Any) -> Crew:
        crew = Crew(stand, script, **options)
        crews.append(crew)
        await crew.open(clock)
        return crew

    yield hire
    for crew in crews:
        await crew.close()

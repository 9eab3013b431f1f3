"""Every test that takes a `stand` runs once for each host in the table."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright.testing import ManualClock
from tests.contract.crew import Crew, Hire, Script
from tests.contract.stands import STANDS, DaprStand, Stand


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

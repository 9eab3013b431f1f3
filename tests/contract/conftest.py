"""Every test that takes a `stand` runs once for each host in the table."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.stands import STANDS, Stand


@pytest.fixture(params=list(STANDS))
async def stand(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> AsyncIterator[Stand]:
    sort, number = STANDS[request.param]
    stand = sort(tmp_path, seed + number)
    yield stand
    await stand.close()

"""Fixtures of the unit tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fake_provider_fixtures import fake
from tests.support.pickers import Make, pickers

__all__ = ["fake"]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with pickers(tmp_path) as make:
        yield make

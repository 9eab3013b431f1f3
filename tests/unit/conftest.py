"""Fixtures of the unit tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshwright.models.server import HttpModel
from tests.support.fake_provider import FakeProvider
from tests.support.fake_provider_fixtures import fake
from tests.support.model_requests import KEY
from tests.support.pickers import Make, pickers

__all__ = ["fake"]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with pickers(tmp_path) as make:
        yield make


@pytest.fixture
async def model(fake: FakeProvider) -> AsyncIterator[HttpModel]:
    """The HTTP adapter at the fake provider."""
    model = HttpModel(fake.url, KEY)
    yield model
    await model.close()

"""Fake providers for one test. A tier's `conftest.py` imports the fixtures that its tests ask for."""

from collections.abc import AsyncIterator

import pytest

from tests.support.fake_provider import FakeProvider


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def other() -> AsyncIterator[FakeProvider]:
    """A second one, beside `fake`."""
    async with FakeProvider() as other:
        yield other

"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.fake_provider_fixtures import fake, other
from tests.support.faults.nodes import Nodes
from tests.support.fuzz_http import chance, no_errors
from tests.support.mqtt_broker import DURABLE, PLAIN, Mosquitto, Network, mosquitto, network

if TYPE_CHECKING:
    from playwright.async_api import Browser

__all__ = ["chance", "fake", "no_errors", "nodes", "other"]


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """Children to kill."""
    with Nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """A real Chromium. Tests of a file share it, and its loop; each has a context of its own."""
    from tests.support.chromium import chromium  # Playwright takes a second of each start

    async with chromium() as browser:
        yield browser


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A broker that keeps its messages when it is killed."""
    async with mosquitto(tmp_path / "broker", *PLAIN, *DURABLE) as broker:
        yield broker


@pytest.fixture
async def link(broker: Mosquitto) -> AsyncIterator[Network]:
    """A network before that broker, to be broken."""
    async with network(broker) as link:
        yield link

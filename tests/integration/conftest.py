"""Fixtures of the integration tests."""

from collections.abc import Iterator

import pytest

from tests.support.fake_provider_fixtures import fake, other
from tests.support.faults.nodes import Nodes
from tests.support.fuzz_http import chance, no_errors

__all__ = ["chance", "fake", "no_errors", "nodes", "other"]


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """Children to kill."""
    with Nodes() as nodes:
        yield nodes

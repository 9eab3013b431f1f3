"""What the integration tests share."""

from collections.abc import Iterator

import pytest

from tests.faults.nodes import Nodes
from tests.providers.fixtures import fake, other

__all__ = ["fake", "nodes", "other"]


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """Children to kill."""
    with Nodes() as nodes:
        yield nodes

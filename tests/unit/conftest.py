"""What the unit tests share."""

from tests.providers.fixtures import fake

__all__ = ["fake"]

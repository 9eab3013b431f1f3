"""What the unit tests share."""

from tests.support.fake_provider_fixtures import fake

__all__ = ["fake"]

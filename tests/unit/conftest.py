"""Fixtures of the unit tests."""

from tests.support.fake_provider_fixtures import fake

__all__ = ["fake"]

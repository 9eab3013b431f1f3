"""The fake provider under the name that it has where only OpenAI's API is spoken."""

from tests.support.fake_provider import FakeProvider as FakeOpenAI
from tests.support.fake_provider import Fault, tool_call

__all__ = ["FakeOpenAI", "Fault", "tool_call"]

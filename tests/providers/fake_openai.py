"""The fake provider under the name that it has where only OpenAI's API is spoken."""

from tests.providers.fake import FakeProvider as FakeOpenAI
from tests.providers.fake import Fault, tool_call

__all__ = ["FakeOpenAI", "Fault", "tool_call"]

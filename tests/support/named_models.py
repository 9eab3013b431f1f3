"""Calls of models that are named outright, and an environment that leads them to fake providers."""

from typing import Any

from meshwright.models.port import ChatMessage, ModelRequest
from tests.support.fake_provider import FakeProvider

KEY = "sk-a-secret-key"


def request(model: str, **fields: Any) -> ModelRequest:
    messages = (ChatMessage(role="user", content="Hello"),)
    return ModelRequest(**{"model": model, "messages": messages, "user": "poet", **fields})


def at_fakes(fake: FakeProvider, other: FakeProvider) -> dict[str, str]:
    """An environment in which OpenAI is one fake, and DeepSeek the other."""
    return {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"{fake.url}/v1",
        "DEEPSEEK_API_KEY": KEY,
        "DEEPSEEK_API_BASE": f"{other.url}/v1",
    }

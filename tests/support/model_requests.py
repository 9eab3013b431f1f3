"""Calls of the HTTP adapter: a key, and a prompt that nobody else may read."""

from typing import Any

from meshwright.models.port import ChatMessage, ModelRequest

KEY = "sk-a-secret-key"
PROMPT = "the prompt nobody may read"


def request(**fields: Any) -> ModelRequest:
    messages = (ChatMessage(role="user", content=PROMPT),)
    return ModelRequest(
        **{"messages": messages, "user": "researcher-agent", "timeout_seconds": 5.0, **fields}
    )

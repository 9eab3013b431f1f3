"""The agent's work in plain functions, which each system makes durable in its own documented way."""

from __future__ import annotations

import json
import os
from typing import Any

QUESTION = "Where is order 7?"
MESSAGES = [
    {"role": "system", "content": "You answer questions about orders."},
    {"role": "user", "content": QUESTION},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "description": "Look up an order.",
            "parameters": {
                "type": "object",
                "properties": {"order": {"type": "string"}},
                "required": ["order"],
            },
        },
    }
]
_clients: list[Any] = []


async def ask(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """One call of the model; returns its message."""
    if not _clients:
        import httpx  # pyrefly: ignore[missing-import]

        _clients.append(httpx.AsyncClient(limits=httpx.Limits(max_connections=300), timeout=60))
    url = os.environ["PROVIDER"] + "/v1/chat/completions"
    response = await _clients[0].post(url, json={"model": "m", "messages": messages, "tools": TOOLS})
    return response.json()["choices"][0]["message"]


async def lookup(order: str) -> str:
    """The tool."""
    return f"order {order}: shipped"


def arguments(call: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of the tool."""
    return json.loads(call["function"]["arguments"])


def result(call: dict[str, Any], content: str) -> dict[str, Any]:
    """The message with the tool's result."""
    return {"role": "tool", "tool_call_id": call["id"], "content": content}

"""A request of either API in one shape, as the personas read it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec

_Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class ToolResult:
    name: str
    arguments: dict[str, Any]
    text: str


class Unasked(ValueError):
    """A result of a tool that no call asked for; its text is the id of the call."""


@dataclass
class Conversation:
    texts: list[str] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    last: list[ToolResult] = field(default_factory=list)
    partial: str = ""
    tools: list[str] = field(default_factory=list)
    thinking: list[dict[str, Any]] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    marked: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All that system and user said."""
        return "\n".join(self.texts)

    @property
    def tokens(self) -> int:
        """How many tokens it has: four characters each."""
        return sum(map(len, self.pieces)) // 4

    @property
    def digest(self) -> str:
        return hashlib.sha256("\x00".join(self.pieces).encode()).hexdigest()[:16]


def read_conversation(body: dict[str, Any]) -> Conversation:
    """Read the body of a request in either API."""
    found = Conversation()
    calls: dict[str, _Call] = {}
    system = body.get("system")
    messages = [{"role": "system", "content": system}, *body["messages"]] if system else body["messages"]
    for message in messages:
        role, parts = message["role"], _parts(message.get("content"))
        found.pieces.append(_encode(message))
        if any("cache_control" in part for part in parts):
            found.marked.append(len(found.pieces))
        text = "".join(part.get("text", "") for part in parts if part.get("type", "text") == "text")
        found.pictures += _pictures(parts)
        if role == "assistant":
            found.last = []
            found.thinking = [part for part in parts if part.get("type") == "thinking"]
            asked = {call["id"]: _function(call) for call in message.get("tool_calls") or []}
            asked |= {
                part["id"]: (part["name"], part["input"]) for part in parts if part.get("type") == "tool_use"
            }
            calls |= asked
            found.partial = "" if asked else found.partial + text
            found.unanswered += asked
        elif role == "tool":
            if any(part.get("type", "text") != "text" for part in parts):
                raise Unasked(f"{message['tool_call_id']} (a tool's message holds text alone)")
            _answer(found, calls, message["tool_call_id"], text)
        else:
            for part in parts:
                if part.get("type") == "tool_result":
                    found.pictures += _pictures(_parts(part.get("content")))
                    inner = "".join(piece.get("text", "") for piece in _parts(part.get("content")))
                    _answer(found, calls, part["tool_use_id"], inner)
            if text:
                found.texts.append(text)
    for tool in body.get("tools") or []:
        found.pieces.append(_encode(tool))
        found.tools.append((tool.get("function") or tool)["name"])
    return found


def _pictures(parts: list[dict[str, Any]]) -> list[str]:
    """The pictures of a message, or of the result of a tool; of OpenAI's no tool's message may have any."""
    urls = [part["image_url"]["url"] for part in parts if part.get("type") == "image_url"]
    sources = [part["source"]["data"] for part in parts if part.get("type") == "image"]
    return [*(url.partition(",")[2] for url in urls), *sources]


def _answer(
    found: Conversation, calls: dict[str, tuple[str, dict[str, Any]]], call_id: str, text: str
) -> None:
    if call_id not in calls:
        raise Unasked(call_id)
    result = ToolResult(*calls[call_id], text)
    found.results.append(result)
    found.last.append(result)
    found.unanswered.remove(call_id)


def _function(call: dict[str, Any]) -> _Call:
    try:
        arguments = msgspec.json.decode(call["function"]["arguments"])
    except msgspec.DecodeError:  # the model's own broken JSON, which comes back to it as it was
        arguments = {}
    return call["function"]["name"], arguments


def _encode(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _parts(content: Any) -> list[dict[str, Any]]:
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content

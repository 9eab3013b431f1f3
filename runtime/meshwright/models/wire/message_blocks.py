"""The content of Anthropic's Messages API, as messages of a chat, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic_core import to_json

from meshwright.core.errors import InvalidInput
from meshwright.models.arguments import arguments_object
from meshwright.models.port import ChatMessage, ModelReply, ToolCall
from meshwright.models.thinking import signed_blocks
from meshwright.models.wire.errors import UnsupportedParameter

_THINKING = ("thinking", "redacted_thinking")
_OF_HOSTS = frozenset({"server_tool_use", "mcp_tool_use", "mcp_tool_result"})
"""Blocks of tools that a host ran; so is every other `*_tool_result`."""
_FAILED = "The tool failed."
_Role = Literal["system", "user", "assistant", "tool"]


class BlockReader:
    """Reads messages of blocks. `passed_over` are the kinds of the blocks without effect here."""

    def __init__(self) -> None:
        self.passed_over: list[str] = []

    def read(self, system: Any, messages: Sequence[tuple[Any, Any]]) -> tuple[ChatMessage, ...]:
        """Returns a conversation of roles and their content. Raises InvalidInput with the wrong block."""
        entries = [*self._system("system", system)] if system else []
        for number, (role, content) in enumerate(messages):
            where = f"messages.{number}.content"
            if role == "system":
                entries += self._system(where, content)
            elif role == "assistant":
                entries.append(self._assistant(where, content))
            else:
                entries += self._user(where, content)
        return tuple(entries)

    def _system(self, where: str, content: Any) -> Iterator[ChatMessage]:
        """A message for each block, so that marks of a cache keep their place."""
        for place, block in _blocks(where, content):
            if block.get("type") != "text":
                raise _unsupported(place, block)
            yield _message("system", [_text_part(block)])

    def _user(self, where: str, content: Any) -> Iterator[ChatMessage]:
        parts: list[dict[str, Any]] = []
        for place, block in _blocks(where, content):
            if block.get("type") != "tool_result":
                parts += self._parts(place, block)
                continue
            if parts:
                yield _message("user", parts)
                parts = []
            yield self._result(place, block)
        if parts:
            yield _message("user", parts)

    def _result(self, where: str, block: Mapping[str, Any]) -> ChatMessage:
        call_id, content = block.get("tool_use_id"), block.get("content")
        if not isinstance(call_id, str) or not call_id:
            raise InvalidInput(f"{where}.tool_use_id is missing", field=f"{where}.tool_use_id")
        parts = self._all_parts(f"{where}.content", content) if content else []
        if not parts:
            parts = [{"type": "text", "text": _FAILED if block.get("is_error") else ""}]
        if mark := block.get("cache_control"):
            parts[-1] = {**parts[-1], "cache_control": mark}
        return _message("tool", parts).model_copy(update={"tool_call_id": call_id})

    def _assistant(self, where: str, content: Any) -> ChatMessage:
        parts: list[dict[str, Any]] = []
        calls: list[ToolCall] = []
        thinking: list[dict[str, Any]] = []
        for place, block in _blocks(where, content):
            kind = block.get("type")
            if kind in _THINKING:
                thinking.append(dict(block))
            elif kind == "tool_use":
                calls.append(_read_call(place, block))
            else:
                parts += self._parts(place, block)
        update = {"tool_calls": tuple(calls), "thinking": signed_blocks(thinking)}
        return _message("assistant", parts).model_copy(update=update)

    def _all_parts(self, where: str, content: Any) -> list[dict[str, Any]]:
        return [part for place, block in _blocks(where, content) for part in self._parts(place, block)]

    def _parts(self, where: str, block: Mapping[str, Any]) -> list[dict[str, Any]]:
        kind = str(block.get("type"))
        mark = {"cache_control": block["cache_control"]} if block.get("cache_control") else {}
        match kind:
            case "text":
                return [_text_part(block)]
            case "image" | "document":
                return [{**part, **mark} for part in self._media(where, kind, block)]
            case "search_result":
                heading = f"{block.get('title') or ''}\n{block.get('source') or ''}"
                inner = [
                    part
                    for place, item in _blocks(where, block.get("content"))
                    for part in self._parts(place, item)
                ]
                return [{"type": "text", "text": heading}, *inner]
            case "tool_reference":
                return [{"type": "text", "text": str(block.get("tool_name") or "")}]
        if kind in _OF_HOSTS or kind.endswith("_tool_result"):
            self.passed_over.append(kind)
            return []
        raise _unsupported(where, block)

    def _media(self, where: str, kind: str, block: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A picture or a document in OpenAI's form, which every adapter takes; a text as text."""
        title = str(block.get("title") or "")
        match block.get("source"):
            case {"type": "base64", "media_type": str(media), "data": str(data)}:
                url = f"data:{media};base64,{data}"
                if kind == "image":
                    return [{"type": "image_url", "image_url": {"url": url}}]
                return [{"type": "file", "file": {"filename": title or "document.pdf", "file_data": url}}]
            case {"type": "url", "url": str(url)}:
                if kind == "image":
                    return [{"type": "image_url", "image_url": {"url": url}}]
                return [{"type": "file", "file": {"file_id": url}}]
            case {"type": "file", "file_id": str(_)}:
                return [dict(block)]
            case {"type": "text", "data": str(data)} if kind == "document":
                heading = [text for text in (title, str(block.get("context") or "")) if text]
                return [{"type": "text", "text": "\n\n".join([*heading, data])}]
            case {"type": "content", "content": content} if kind == "document":
                return [
                    part for place, inner in _blocks(where, content) for part in self._parts(place, inner)
                ]
        field = f"{where}.source"
        raise UnsupportedParameter(
            f"{field} is not possible here", remedy="Send base64 or a URL", field=field
        )


def reply_blocks(reply: ModelReply) -> list[dict[str, Any]]:
    """Returns the blocks of a reply behind its text: thinking, and calls of tools."""
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_object(call)}
        for call in reply.tool_calls
    ]
    return [*map(dict, reply.thinking), *calls]


def _blocks(where: str, content: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(content, str):
        return [(where, {"type": "text", "text": content})]
    if not isinstance(content, list):
        raise InvalidInput(f"{where} must be text or a list of blocks", field=where)
    for number, block in enumerate(content):
        if not isinstance(block, Mapping):
            raise InvalidInput(f"{where}.{number} must be an object", field=f"{where}.{number}")
    return [(f"{where}.{number}", block) for number, block in enumerate(content)]


def _text_part(block: Mapping[str, Any]) -> dict[str, Any]:
    mark = {"cache_control": block["cache_control"]} if block.get("cache_control") else {}
    return {"type": "text", "text": str(block.get("text") or ""), **mark}


def _message(role: _Role, parts: Sequence[dict[str, Any]]) -> ChatMessage:
    """A message whose first text is its content, unless a cache ends there."""
    if parts and parts[0]["type"] == "text" and "cache_control" not in parts[0]:
        return ChatMessage(role=role, content=parts[0]["text"], parts=tuple(parts[1:]))
    return ChatMessage(role=role, parts=tuple(parts))


def _read_call(where: str, block: Mapping[str, Any]) -> ToolCall:
    for name in ("id", "name"):
        if not isinstance(block.get(name), str) or not block[name]:
            raise InvalidInput(f"{where}.{name} is missing", field=f"{where}.{name}")
    return ToolCall(id=block["id"], name=block["name"], arguments=to_json(block.get("input") or {}).decode())


def _unsupported(where: str, block: Mapping[str, Any]) -> UnsupportedParameter:
    field = f"{where}.type"
    return UnsupportedParameter(f"{field}: {block.get('type')!r} is not possible here", field=field)

"""The conversation of a request to the Responses API, as messages of a chat."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.core.errors import InvalidInput
from meshwright.models.wire.errors import UnsupportedParameter
from meshwright.models.wire.response_tools import ResponseTools, past_call

NOT_STORED = "Send the whole conversation as `input`: responses are not stored here"
_TEXTS = ("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text")
_CALLS = ("function_call", "custom_tool_call", "local_shell_call", "tool_search_call")
_OUTPUTS = ("function_call_output", "custom_tool_call_output", "local_shell_call_output")
_OF_HOSTS = frozenset(
    {"web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call"}
    | {"mcp_list_tools", "ghost_snapshot", "compaction_trigger"}
)
"""Items of tools that a host ran, and marks of clients: their results stand in the messages after them."""
_THINKING = ("thinking", "redacted_thinking")
_MARK = "mesh-thinking-1:"  # begins the blocks of thinking that a client keeps for us


class ConversationReader:
    """Reads the items of a conversation into messages.

    Tools that came with an item are added to `tools`. `passed_over` are the kinds of the items
    without effect here.
    """

    def __init__(self, tools: ResponseTools) -> None:
        self.messages: list[dict[str, Any]] = []
        self.passed_over: list[str] = []
        self._tools = tools

    def read(self, instructions: str | None, items: str | Sequence[Mapping[str, Any]]) -> None:
        """Reads a whole request. Raises InvalidInput with the item that is wrong."""
        if instructions:
            self.messages.append({"role": "system", "content": instructions})
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        for number, item in enumerate(items):
            self._read(f"input.{number}", item)
        self.messages = [message for message in self.messages if _says_something(message)]

    def _read(self, where: str, item: Mapping[str, Any]) -> None:
        kind = item.get("type") or "message"
        if kind == "message":
            content = _read_content(f"{where}.content", item.get("content"))
            self._say(item.get("role"), content)
        elif kind in _CALLS:
            self._assistant().setdefault("tool_calls", []).append(past_call(item))
        elif kind in _OUTPUTS:
            content = _read_content(f"{where}.output", item.get("output"))
            self._answer(item, content)
        elif kind == "reasoning":
            if blocks := _thinking_blocks(item.get("encrypted_content")):
                self._assistant().setdefault("thinking_blocks", []).extend(blocks)
        elif kind == "tool_search_output":
            self._tools.add(f"{where}.tools", item.get("tools") or [])
            self._answer(item, json.dumps({"tools": item.get("tools") or []}))
        elif kind == "additional_tools":
            self._tools.add(f"{where}.tools", item.get("tools") or [])
        elif kind in _OF_HOSTS:
            self.passed_over.append(str(kind))
        else:
            raise refused(f"{where}.type", kind)

    def _say(self, role: Any, content: Any) -> None:
        last = self.messages[-1] if self.messages else {}
        if role == "assistant" == last.get("role") and last["content"] is None and not last.get("tool_calls"):
            last["content"] = content  # its thinking came before it
        else:
            self.messages.append({"role": role, "content": content})

    def _answer(self, item: Mapping[str, Any], content: Any) -> None:
        call_id = item.get("call_id") or item.get("id")
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def _assistant(self) -> dict[str, Any]:
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": None})
        return self.messages[-1]


def reasoning_item(item_id: str, blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns a provider's blocks of thinking as an item that the client sends back unchanged."""
    texts = [block["thinking"] for block in blocks if block.get("thinking")]
    return {
        "type": "reasoning",
        "id": item_id,
        "summary": [{"type": "summary_text", "text": text} for text in texts],
        "encrypted_content": _MARK + base64.b64encode(to_json(blocks)).decode(),
    }


def refused(where: str, kind: Any) -> InvalidInput:
    """The error for a part of a request that the mesh cannot read."""
    return UnsupportedParameter(f"{where}: {kind!r} is not possible here", remedy=NOT_STORED, field=where)


def _thinking_blocks(content: Any) -> list[dict[str, Any]]:
    """The blocks of thinking of an item; none where another host wrote it."""
    if not isinstance(content, str) or not content.startswith(_MARK):
        return []
    try:
        blocks = from_json(base64.b64decode(content.removeprefix(_MARK), validate=True))
    except ValueError:
        return []
    if not isinstance(blocks, list):
        return []
    return [block for block in blocks if isinstance(block, dict) and block.get("type") in _THINKING]


def _says_something(message: Mapping[str, Any]) -> bool:
    is_empty = message["role"] == "assistant" and message["content"] is None
    return not is_empty or bool(message.get("tool_calls"))


def _read_content(where: str, content: Any) -> Any:
    if isinstance(content, Mapping):
        content = content.get("content")
    if not isinstance(content, list):
        return content
    return [_read_part(f"{where}.{place}", part) for place, part in enumerate(content)]


def _read_part(where: str, part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _TEXTS:
        return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    if kind == "input_file":
        names = {
            "file_data": "file_data",
            "file_id": "file_id",
            "file_url": "file_id",
            "filename": "filename",
        }
        return {"type": "file", "file": {ours: part[name] for name, ours in names.items() if part.get(name)}}
    raise refused(f"{where}.type", kind)

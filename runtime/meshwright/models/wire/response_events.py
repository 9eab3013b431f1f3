"""The events of the items of a response that is streamed by the Responses API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshwright.models.thinking import Thinking, text_of_blocks
from meshwright.models.wire.response_items import reasoning_item

_SUMMARY = "response.reasoning_summary"
Event = tuple[str, dict[str, Any]]
"""The type of an event, and its fields."""


class LiveItems:
    """The events of a message, and of the thinking before it, whose text comes in pieces.

    `index` is the place of the next item, `blocks` are the blocks of thinking that have an item.
    """

    def __init__(self, ids: Mapping[str, str]) -> None:
        self.index = 0
        self.blocks: list[Mapping[str, Any]] = []
        self._ids = ids
        self._is_thinking = False
        self._thought: str | None = None
        self._text = ""

    def add(self, piece: str | Thinking) -> Iterator[Event]:
        """Yields the events of the next piece."""
        if isinstance(piece, str):
            yield from self._end_reasoning()
            if not self._text:
                yield from _message_begins(self.index, message_item(self._ids["msg"], ""))
            self._text += piece
            yield "response.output_text.delta", {**self._place, "delta": piece, "logprobs": []}
            return
        if not self._is_thinking:
            self._is_thinking = True
            yield _added(self.index, reasoning_item(self._ids["rs"], ()))
        text = piece.text or ("" if self._thought is not None else text_of_blocks([piece.block or {}]))
        if text and self._thought is None:
            self._thought = ""
            yield f"{_SUMMARY}_part.added", {**self._part_place, "part": _summary("")}
        if text:
            self._thought = f"{self._thought or ''}{text}"
            yield f"{_SUMMARY}_text.delta", {**self._part_place, "delta": text}
        if piece.block is not None:
            yield from self._end_part()
            self.blocks.append(piece.block)

    def end(self) -> Iterator[Event]:
        """Yields the events by which the open item ends."""
        yield from self._end_reasoning()
        if self._text:
            yield from _message_ends(self.index, message_item(self._ids["msg"], self._text))
            self.index += 1

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._ids["msg"], "output_index": self.index, "content_index": 0}

    @property
    def _part_place(self) -> dict[str, Any]:
        number = sum(bool(block.get("thinking")) for block in self.blocks)
        return {"item_id": self._ids["rs"], "output_index": self.index, "summary_index": number}

    def _end_part(self) -> Iterator[Event]:
        if self._thought is not None:
            yield f"{_SUMMARY}_text.done", {**self._part_place, "text": self._thought}
            yield f"{_SUMMARY}_part.done", {**self._part_place, "part": _summary(self._thought)}
            self._thought = None

    def _end_reasoning(self) -> Iterator[Event]:
        if not self._is_thinking:
            return
        if self._thought is not None:
            block = {"type": "thinking", "thinking": self._thought, "signature": ""}
            yield from self._end_part()
            self.blocks.append(block)
        yield _done(self.index, reasoning_item(self._ids["rs"], self.blocks))
        self._is_thinking, self.index = False, self.index + 1


def message_item(item_id: str, text: str) -> dict[str, Any]:
    """Returns the message of a response."""
    head = {"type": "message", "id": item_id, "role": "assistant", "status": "completed"}
    return {**head, "content": [_text_part(text)]}


def item_events(index: int, item: Mapping[str, Any]) -> Iterator[Event]:
    """Yields the events of an item that is whole."""
    if item["type"] == "message":
        yield from _message_begins(index, item)
        yield from _message_ends(index, item)
        return
    yield _added(index, item)
    for kind, fields in _changes(item):
        yield kind, {"item_id": item["id"], "output_index": index, **fields}
    yield _done(index, item)


def _message_begins(index: int, item: Mapping[str, Any]) -> Iterator[Event]:
    place = {"item_id": item["id"], "output_index": index, "content_index": 0}
    yield _added(index, {**item, "content": list[Any]()})
    yield "response.content_part.added", {**place, "part": _text_part("")}


def _message_ends(index: int, item: Mapping[str, Any]) -> Iterator[Event]:
    place = {"item_id": item["id"], "output_index": index, "content_index": 0}
    [part] = item["content"]
    yield "response.output_text.done", {**place, "text": part["text"], "logprobs": []}
    yield "response.content_part.done", {**place, "part": part}
    yield _done(index, item)


def _added(index: int, item: Mapping[str, Any]) -> Event:
    return "response.output_item.added", {"output_index": index, "item": _begun(item)}


def _done(index: int, item: Mapping[str, Any]) -> Event:
    return "response.output_item.done", {"output_index": index, "item": item}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _summary(text: str) -> dict[str, str]:
    return {"type": "summary_text", "text": text}


def _begun(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item before its text, its arguments or its input have come."""
    empty = {"summary": list[Any](), "arguments": "", "input": ""}
    emptied = {name: empty[name] for name in empty if isinstance(item.get(name), type(empty[name]))}
    return {**item, **emptied, **({"status": "in_progress"} if "status" in item else {})}


def _changes(item: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events between the begin and the end of an item."""
    match item["type"]:
        case "function_call":
            arguments = item["arguments"]
            yield "response.function_call_arguments.delta", {"delta": arguments}
            yield "response.function_call_arguments.done", {"name": item["name"], "arguments": arguments}
        case "custom_tool_call":
            yield "response.custom_tool_call_input.delta", {"delta": item["input"]}
            yield "response.custom_tool_call_input.done", {"input": item["input"]}
        case "reasoning":
            for number, part in enumerate(item["summary"]):
                at = {"summary_index": number}
                yield f"{_SUMMARY}_part.added", {**at, "part": _summary("")}
                yield f"{_SUMMARY}_text.delta", {**at, "delta": part["text"]}
                yield f"{_SUMMARY}_text.done", {**at, "text": part["text"]}
                yield f"{_SUMMARY}_part.done", {**at, "part": part}

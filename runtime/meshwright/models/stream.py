"""Streamed chat completions: server-sent events read by hand, and their pieces put together again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from meshwright.models.port import OnDelta
from meshwright.models.wire import read_content

DONE = b"[DONE]"


class TooMuch(Exception):
    """A stream is over its limit."""


async def events(pieces: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """Each event's data, however the network cut the stream; comments (keep-alives) are passed over.

    A line of data is an event: nobody splits one over lines, and some servers leave out the empty line after
    it. Raises TooMuch for a line of more than `max_bytes`.
    """
    held = bytearray()
    async for piece in pieces:
        held += piece
        if b"\n" in piece:
            *lines, rest = cut(bytes(held))
            held = bytearray(rest)
            for data in filter(None, map(data_of, lines)):
                yield data
        if len(held) > max_bytes:
            raise TooMuch
    for data in filter(None, map(data_of, held.splitlines())):
        yield data


def cut(text: bytes) -> list[bytes]:
    """The lines of a text that end in LF, CRLF or CR, and then what follows the last of them.

    A CR at the end of the text stays with its line: the LF of it may be on its way.
    """
    lines = text.splitlines(keepends=True)
    rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
    return [*lines, rest]


def data_of(line: bytes | bytearray) -> bytes:
    """The data that a line holds, if it is a line of data."""
    return bytes(line[5:]).strip() if line.startswith(b"data:") else b""


class Pieces:
    """Puts the chunks of a streamed completion together into the body of a whole one.

    Text goes to `on_delta` as it comes; tool calls may come interleaved, and are told apart by their index,
    or by their id where a server gives all of them the same index. Raises TooMuch over `max_chars`.
    """

    def __init__(self, on_delta: OnDelta, max_chars: int) -> None:
        self.on_delta = on_delta
        self.room = max_chars
        self.finish_reason: str | None = None
        self._model: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._text: list[str] = []
        self._refusal = ""
        self._calls: list[Call] = []
        self._open: dict[Any, Call] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take the next chunk."""
        self._model = self._model or chunk.get("model")
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            self._delta(choice.get("delta") or {})

    def body(self) -> dict[str, Any]:
        """The whole completion, as it would have come without a stream."""
        message = {
            "content": "".join(self._text),
            "tool_calls": [call.body() for call in self._calls],
            "refusal": self._refusal,
        }
        choices = [{"message": message, "finish_reason": self.finish_reason}]
        return {"model": self._model, "choices": choices, "usage": self._usage}

    def _delta(self, delta: Mapping[str, Any]) -> None:
        self._refusal += delta.get("refusal") or ""
        if text := read_content(delta.get("content")):
            self._take(text)
            self._text.append(text)
            self.on_delta(text)
        for fragment in delta.get("tool_calls") or ():
            self._fragment(fragment)

    def _fragment(self, fragment: Mapping[str, Any]) -> None:
        index, call_id = fragment.get("index"), fragment.get("id")
        call = self._open.get(index)
        if call is None or (call_id and call.id and call_id != call.id):
            call = self._open[index] = Call()
            self._calls.append(call)
        call.id = call.id or call_id or ""
        function = fragment.get("function") or {}
        call.name = call.name or function.get("name") or ""
        arguments = function.get("arguments") or ""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        self._take(text)
        call.arguments.append(text)

    def _take(self, text: str) -> None:
        self.room -= len(text)
        if self.room < 0:
            raise TooMuch


class Call:
    """A tool call that is still coming."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def body(self) -> dict[str, Any]:
        """The call as a whole completion has it."""
        return {"id": self.id, "function": {"name": self.name, "arguments": "".join(self.arguments)}}

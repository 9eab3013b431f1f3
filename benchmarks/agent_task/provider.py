"""A provider with OpenAI's API that answers at once: a call of `lookup`, then text. It costs little."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
CALL = {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": '{"order": "7"}'}}
TEXT = "The order is on its way."


def reply(message: dict[str, Any], finish: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    head = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps({**head, "choices": [choice], "usage": USAGE}).encode()


def stream(delta: dict[str, Any], finish: str) -> bytes:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [
        [{"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": finish}],
    ]
    chunks = [*({**head, "choices": choice} for choice in choices), {**head, "choices": [], "usage": USAGE}]
    return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"


JSON_REPLIES = (
    reply({"content": None, "tool_calls": [CALL]}, "tool_calls"),
    reply({"content": TEXT}, "stop"),
)
STREAMS = (stream({"tool_calls": [{"index": 0, **CALL}]}, "tool_calls"), stream({"content": TEXT}, "stop"))


class Provider(asyncio.Protocol):
    """A connection; requests have a length."""

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n") + 4) >= 4:
            _, found, length = self._data[:end].lower().partition(b"content-length:")
            end_of_body = end + (int(length.split(b"\r\n")[0]) if found else 0)
            if len(self._data) < end_of_body:
                return
            body, self._data = self._data[end:end_of_body], self._data[end_of_body:]
            body = body.replace(b'": ', b'":')
            streams = b'"stream":true' in body
            answer = (STREAMS if streams else JSON_REPLIES)[b'"role":"tool"' in body]
            kind = b"text/event-stream" if streams else b"application/json"
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"
                % (kind, len(answer), answer)
            )


async def serve() -> AsyncIterator[dict[str, str]]:
    """A side: says its URL, and serves meanwhile."""
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0)
    yield {"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}
    server.close()

"""A request is sent once more where a pooled connection was closed before the first byte, and never else."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meshwright.models.errors import ModelUnavailable
from meshwright.models.server import HttpModel
from tests.support.model_requests import request

ANSWER = {"model": "m", "choices": [{"message": {"content": "Hello."}, "finish_reason": "stop"}]}
STREAM = b'data: {"choices": [{"delta": {"content": "Hello."}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


class ClosingServer:
    """Answers each request but those that `closes` says; these close their connection instead.

    It takes the number of the connection and of the request on it. `last_words` come before the end, `reset`
    ends it by RST.
    """

    def __init__(
        self, closes: Callable[[int, int], bool], last_words: bytes = b"", *, reset: bool = False
    ) -> None:
        self.requests: list[int] = []
        self.connections = 0
        self._closes = closes
        self._last_words = last_words
        self._reset = reset
        self.gate = asyncio.Event()
        self.gate.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection, count = self.connections, 0
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"
                )
                body = json.loads(await reader.readexactly(length))
                count += 1
                self.requests.append(connection)
                await self.gate.wait()
                if self._closes(connection, count):
                    writer.write(self._last_words)
                    await writer.drain()
                    if self._reset:
                        linger = struct.pack("ii", 1, 0)
                        writer.get_extra_info("socket").setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, linger
                        )
                    return
                kind, data = "application/json", json.dumps(ANSWER).encode()
                if body.get("stream"):
                    kind, data = "text/event-stream", STREAM
                writer.write(
                    f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n".encode()
                )
                writer.write(data)
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(server: ClosingServer) -> AsyncIterator[HttpModel]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    model = HttpModel(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    try:
        yield model
    finally:
        await model.close()
        listening.close()
        await listening.wait_closed()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("on_delta", [None, [].append], ids=["whole", "streamed"])
async def test_a_request_on_a_connection_that_was_closed_before_is_sent_once_more(
    reset: bool, on_delta: Any
) -> None:
    server = ClosingServer(lambda connection, count: connection == 1 and count == 2, reset=reset)
    async with serving(server) as model:
        for _ in range(2):
            assert (await model.complete(request(), on_delta)).content == "Hello."
    assert server.requests == [1, 1, 2]


async def test_the_second_try_takes_no_other_connection_of_the_pool() -> None:
    server = ClosingServer(lambda connection, count: count == 2)
    async with serving(server) as model:
        server.gate.clear()
        first = [asyncio.create_task(model.complete(request())) for _ in range(5)]
        while len(server.requests) < 5:
            await asyncio.sleep(0.001)
        server.gate.set()
        await asyncio.gather(*first)
        assert (await model.complete(request())).content == "Hello."
    assert (len(server.requests), server.connections) == (7, 6)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_request_on_a_connection_of_its_own_is_sent_once(reset: bool) -> None:
    server = ClosingServer(lambda connection, count: True, reset=reset)
    async with serving(server) as model:
        with pytest.raises(ModelUnavailable):
            await model.complete(request())
    assert server.requests == [1]


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"])
async def test_nothing_is_sent_again_once_a_byte_has_come(begun: bytes, reset: bool) -> None:
    server = ClosingServer(lambda connection, count: count == 2, begun, reset=reset)
    async with serving(server) as model:
        await model.complete(request())
        with pytest.raises(ModelUnavailable):
            await model.complete(request())
    assert server.requests == [1, 1]


async def test_a_request_is_sent_no_third_time() -> None:
    server = ClosingServer(lambda connection, count: connection > 1 or count == 2)
    async with serving(server) as model:
        await model.complete(request())
        with pytest.raises(ModelUnavailable, match="before it had answered"):
            await model.complete(request())
    assert server.requests == [1, 1, 2]

"""Transports of MCP whose messages are bounded: over stdin and stdout a line each, and answers over HTTP.

The library's own keep a line, or an answer, until it ends, however long it gets: one server could fill the
memory of the mesh.
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from meshwright.core.errors import MeshError
from meshwright.mcp.settings import McpServer

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from httpx2 import AsyncHTTPTransport

MAX_MESSAGE_BYTES = 32_000_000
_CHUNK_BYTES = 65_536
_GRACE_SECONDS = 2.0  # that a program has to end by itself, and then by a signal


@asynccontextmanager
async def running(
    server: McpServer, folder: Path, errors: TextIO, lose: Callable[[str], None]
) -> AsyncIterator[Any]:
    """Run the program of a server; gives the streams of messages from it and to it.

    `lose` is called with the reason where it sends a message over the limit. Raises OSError where it cannot
    be started.
    """
    import anyio
    from mcp.client.stdio import get_default_environment

    process = await asyncio.create_subprocess_exec(
        server.command,
        *server.args,
        stdin=PIPE,
        stdout=PIPE,
        stderr=errors,
        env={**get_default_environment(), **server.env},
        cwd=folder,
        start_new_session=True,
        limit=MAX_MESSAGE_BYTES,
    )
    errors.close()  # the program alone has it open: its end is that of the program
    incoming, received = anyio.create_memory_object_stream[Any](0)
    sent, outgoing = anyio.create_memory_object_stream[Any](0)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_read, process, incoming, lose)
            group.start_soon(_write, process, outgoing, incoming)
            yield received, sent
            group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)


async def _read(process: Process, incoming: MemoryObjectSendStream[Any], lose: Callable[[str], None]) -> None:
    from anyio import BrokenResourceError
    from mcp.shared.message import SessionMessage
    from mcp.types import jsonrpc_message_adapter

    assert process.stdout is not None  # a pipe, as asked for
    async with incoming:
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                return lose(f"it sent a message of over {MAX_MESSAGE_BYTES // 1_000_000} MB")
            if not line:
                return
            message: Any
            try:
                message = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
            except ValueError as error:  # the library goes on behind what is no message
                message = error
            with suppress(BrokenResourceError):
                await incoming.send(message)


async def _write(
    process: Process, outgoing: MemoryObjectReceiveStream[Any], incoming: MemoryObjectSendStream[Any]
) -> None:
    assert process.stdin is not None  # a pipe, as asked for
    async with outgoing:
        async for message in outgoing:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            try:
                process.stdin.write(f"{text}\n".encode())
                await process.stdin.drain()
            except OSError:
                await incoming.aclose()  # calls end instead of waiting for ever
                return


async def _stop(process: Process) -> None:
    """Close its input, and end it with all that it started where that does not end it."""
    assert process.stdin is not None  # a pipe, as asked for
    process.stdin.close()
    draining = asyncio.create_task(_drain(process))  # a process is not over while its pipes hold something
    try:
        for sign in (signal.SIGTERM, signal.SIGKILL, None):
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_SECONDS):
                    await process.wait()
                    return
            if sign is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)
    finally:
        draining.cancel()


async def _drain(process: Process) -> None:
    assert process.stdout is not None  # a pipe, as asked for
    while await process.stdout.read(_CHUNK_BYTES):
        pass


def bounded_transport() -> AsyncHTTPTransport:
    """A transport whose answers fail where they get over the limit, but for streams of events.

    The library bounds each event itself. A packed answer fails: a small one may unpack to anything.
    """
    from httpx2 import AsyncByteStream, AsyncHTTPTransport, Request, Response

    class BoundedStream(AsyncByteStream):
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def __aiter__(self) -> AsyncIterator[bytes]:
            count = 0
            async for chunk in self._inner:
                count += len(chunk)
                if count > MAX_MESSAGE_BYTES:
                    raise MeshError(f"it sent an answer of over {MAX_MESSAGE_BYTES // 1_000_000} MB")
                yield chunk

        async def aclose(self) -> None:
            await self._inner.aclose()

    class Transport(AsyncHTTPTransport):
        async def handle_async_request(self, request: Request) -> Response:
            response = await super().handle_async_request(request)
            if response.headers.get("content-encoding", "identity") != "identity":
                await response.aclose()
                raise MeshError("it sent a compressed answer, which was not asked for")
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                response.stream = BoundedStream(response.stream)
            return response

    return Transport()

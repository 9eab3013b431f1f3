"""Answers probes where there is no HTTP API: /healthz while the process lives, /readyz while it works."""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from socket import socket

REQUEST_SECONDS = 5.0
MAX_REQUEST_BYTES = 8_192


@asynccontextmanager
async def answering_probes(listener: socket, is_ready: Callable[[], bool]) -> AsyncIterator[None]:
    """Answer probes on a listening socket within a block."""

    async def answer(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_reply(request.split(maxsplit=2)[1], is_ready()))
                await writer.drain()
        except (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError):
            pass  # no request, or none that is worth an answer
        finally:
            writer.close()

    server = await asyncio.start_server(answer, sock=listener, limit=MAX_REQUEST_BYTES)
    async with server:
        yield


def _reply(path: bytes, ready: bool) -> bytes:
    answers = {
        b"/healthz": ("200 OK", {"status": "ok"}),
        b"/readyz": ("200 OK", {"status": "ready"})
        if ready
        else ("503 Service Unavailable", {"status": "waits"}),
    }
    status, document = answers.get(path, ("404 Not Found", {"status": "not found"}))
    body = json.dumps(document)
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}connection: close\r\n\r\n{body}".encode()

"""Loopback: ports that nothing else gets, probes of services, and answers to the probes of others."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
PROBE_SECONDS = 2.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.01, 0.25
SETTLE_SECONDS = 0.1
"""A daprd with a component that it refuses answers for a moment, and then ends."""
_REQUEST_SECONDS = 5.0
_MAX_REQUEST_BYTES = 8_192


class Ports:
    """Free ports of loopback, reserved until this is closed.

    Each is held by a socket that does not listen: a program that asks for that very port gets it (with
    SO_REUSEADDR, as servers set it), and the kernel gives it to nothing that asks for any port, before the
    program starts or between its runs. Only Linux can hold ports.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self, count: int) -> list[int]:
        """That many free ports."""
        taken = [_bound() for _ in range(count)]
        ports = [holder.getsockname()[1] for holder in taken]
        self._held += taken
        if sys.platform != "linux":
            self.close()
        return ports

    def close(self) -> None:
        """Release them all."""
        for holder in self._held:
            holder.close()
        self._held.clear()


def _bound() -> socket.socket:
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((LOOPBACK, 0))
    return holder


def url_of(listen: tuple[str, int]) -> str:
    """The URL of a server that listens on that host and port."""
    host, port = listen
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def until_it_answers(url: str) -> None:
    """Return when the URL answers, and still does a moment later."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        if await answers(url):
            await asyncio.sleep(SETTLE_SECONDS)
            if await answers(url):
                return
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)


async def answers(url: str) -> bool:
    """Whether the URL answers.

    `tcp:` a connection, `http:` a status below 300, `redis:` PONG (with the password of the URL, if any).
    """
    where = urlsplit(url)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            try:
                if where.scheme == "http":
                    writer.write(f"GET {where.path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                    return int((await reader.readline()).split()[1]) < 300
                return where.scheme != "redis" or await _pongs(reader, writer, where.password)
            finally:
                writer.close()
    except (OSError, ValueError, IndexError):  # nothing is there, or nothing that speaks the protocol
        return False


async def _pongs(reader: StreamReader, writer: StreamWriter, password: str | None) -> bool:
    if password:
        writer.write(f"AUTH {password}\r\n".encode())
        await reader.readline()
    writer.write(b"PING\r\n")  # refused while Redis still reads its data
    return await reader.readline() == b"+PONG\r\n"


@asynccontextmanager
async def answering_probes(listener: socket.socket, is_ready: Callable[[], bool]) -> AsyncIterator[None]:
    """Answer probes where there is no HTTP API: /healthz while the process lives, /readyz while it works."""

    async def answer(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_reply(request.split(maxsplit=2)[1], is_ready()))
                await writer.drain()
        except (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError):
            pass  # not a request
        finally:
            writer.close()

    server = await asyncio.start_server(answer, sock=listener, limit=_MAX_REQUEST_BYTES)
    async with server:
        yield


def _reply(path: bytes, ready: bool) -> bytes:
    status, document = {
        b"/healthz": ("200 OK", "ok"),
        b"/readyz": ("200 OK", "ready") if ready else ("503 Service Unavailable", "waits"),
    }.get(path, ("404 Not Found", "not found"))
    body = json.dumps({"status": document})
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}connection: close\r\n\r\n{body}".encode()

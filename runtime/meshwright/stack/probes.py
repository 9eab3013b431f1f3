"""Whether a service works: asked in as few bytes as its protocol allows."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

PROBE_SECONDS = 2.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.01, 0.25
SETTLE_SECONDS = 0.1
"""A daprd with a component that it refuses answers for a moment, and then ends."""


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
                return await PROBES[where.scheme](where, reader, writer)
            finally:
                writer.close()
    except (OSError, ValueError, IndexError):  # nobody is there, or nobody who speaks the protocol
        return False


async def get(url: str, **headers: str) -> bytes:
    """The body of what the URL answers. Raises OSError, TimeoutError, ValueError."""
    where = urlsplit(url)
    async with asyncio.timeout(PROBE_SECONDS):
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        try:
            writer.write(_request(where.path, **headers))
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
    if int(head.split(maxsplit=2)[1]) >= 300:
        raise ValueError(f"{url} answers {head.splitlines()[0].decode()}")
    return body


def _request(path: str, **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    return f"GET {path} HTTP/1.0\r\nHost: localhost\r\n{''.join(lines)}\r\n".encode()


async def _accepts(where: SplitResult, reader: StreamReader, writer: StreamWriter) -> bool:
    return True


async def _http(where: SplitResult, reader: StreamReader, writer: StreamWriter) -> bool:
    writer.write(_request(where.path))
    return int((await reader.readline()).split()[1]) < 300


async def _redis(where: SplitResult, reader: StreamReader, writer: StreamWriter) -> bool:
    if where.password:
        writer.write(f"AUTH {where.password}\r\n".encode())
        await reader.readline()
    writer.write(b"PING\r\n")  # refused while it still reads its data
    return await reader.readline() == b"+PONG\r\n"


PROBES: dict[str, Callable[[SplitResult, StreamReader, StreamWriter], Awaitable[bool]]] = {
    "tcp": _accepts,
    "http": _http,
    "redis": _redis,
}

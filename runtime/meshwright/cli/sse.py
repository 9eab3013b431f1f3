"""Server-sent events, as far as a client needs them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from typing import NamedTuple


class ServerEvent(NamedTuple):
    """One event of a stream: its id (empty where it has none) and its data."""

    id: str
    data: str


async def server_events(chunks: AsyncIterable[bytes]) -> AsyncGenerator[ServerEvent, None]:
    """Read events from the body of a response, however it is cut into chunks; comments are left out."""
    last_id, data = "", list[str]()
    async for line in _lines(chunks):
        if not line:
            if data:
                yield ServerEvent(last_id, "\n".join(data))
            data.clear()
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "id":
            last_id = value


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncGenerator[str, None]:
    # Kept as pieces until the line is whole: a long one would else be copied with every chunk.
    pieces: list[bytes] = []
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for end in whole:
            yield b"".join([*pieces, end]).decode().removesuffix("\r")
            pieces.clear()
        pieces.append(rest)

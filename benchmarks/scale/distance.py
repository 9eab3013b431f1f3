"""A server that is some milliseconds away: a relay on loopback that holds each piece back for so long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

PIECE = 65_536  # bytes


@asynccontextmanager
async def relayed(port: int, round_trip_seconds: float) -> AsyncIterator[int]:
    """A port of loopback by which another one is reached, half of the time later in each direction."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):  # its other half has ended, or the relay does
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(
                _carry(reader, far_writer, round_trip_seconds / 2),
                _carry(far_reader, writer, round_trip_seconds / 2),
            )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Pass on what comes, each piece so much later, in its order."""
    loop = asyncio.get_running_loop()
    while piece := await reader.read(PIECE):
        loop.call_later(seconds, writer.write, piece)
    loop.call_later(seconds, writer.close)

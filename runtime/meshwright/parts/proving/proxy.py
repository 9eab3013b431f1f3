"""A TCP proxy between the workers of a run and a service, to cut their connections."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 65_536


class Proxy:
    """Passes the bytes of each connection on to a service; `port` is its own port on loopback."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """`host` is a name, an address, or the folder of a Unix socket of PostgreSQL. With `tls` the service
        gets TLS, and the connections to the proxy have none."""
        self._host, self._service_port, self._tls = host, port, tls
        self._connections: dict[asyncio.Task[None], Sequence[asyncio.StreamWriter]] = {}
        self.port = 0
        self.loses_requests = False
        """Whether all that is sent to the service is lost, until the next `cut`."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task, writers in self._connections.items():
            for writer in writers:
                writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self, rng: random.Random | None = None) -> int:
        """Reset some of the connections, at least one, all without `rng`; returns their number."""
        connections, self.loses_requests = list(self._connections.values()), False
        chosen = (
            connections
            if rng is None
            else rng.sample(connections, rng.randint(min(1, len(connections)), len(connections)))
        )
        for writers in chosen:
            for writer in writers:
                writer.transport.abort()
        return len(chosen)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = [writer]
        self._connections[task] = writers
        try:
            if self._host.startswith("/"):
                path = f"{self._host}/.s.PGSQL.{self._service_port}"
                service_reader, service_writer = await asyncio.open_unix_connection(path)
            else:
                service_reader, service_writer = await asyncio.open_connection(
                    self._host, self._service_port, ssl=self._tls
                )
            writers.append(service_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, service_writer, lambda: self.loses_requests))
                group.create_task(_pass_on(service_reader, writer, lambda: False))
        except* (OSError, asyncio.CancelledError):
            pass  # as if the service had refused, or the run is over
        finally:
            del self._connections[task]
            for each_writer in writers:
                each_writer.close()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses: Callable[[], bool]
) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        if not loses():
            writer.write(data)
            await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:  # TLS
        writer.close()

"""Pooled connections to model servers that know whether anything of a reply has come.

Imported with aiohttp, at the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import (
    ClientConnectionError,
    ClientResponse,
    ClientTimeout,
    ServerDisconnectedError,
    TCPConnector,
)
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


class StaleConnection(ServerDisconnectedError):
    """A pooled connection was closed before the first byte of a reply, most likely before the request."""


class _CountedHandler(ResponseHandler):
    """The protocol of a connection, with how many requests it was used for."""

    requests = 0
    has_begun = False
    """Whether a byte has come since the last request."""

    def data_received(self, data: bytes) -> None:
        """Take what the server has sent."""
        self.has_begun = True
        super().data_received(data)


class PoolConnector(TCPConnector):
    """Opens and pools connections that count their requests; `opened` is how many there were."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.opened = 0
        self._factory = self._make_handler

    def _make_handler(self, *, loop: AbstractEventLoop | None = None) -> ResponseHandler:
        self.opened += 1
        return _CountedHandler(loop=loop or self._loop)

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        """Return a connection for one request."""
        connection = await super().connect(req, traces, timeout)
        if isinstance(connection.protocol, _CountedHandler):
            connection.protocol.requests += 1
            connection.protocol.has_begun = False
        return connection


class PoolResponse(ClientResponse):
    """A response whose beginning tells a stale connection from a server that fails."""

    async def start(self, connection: Connection) -> ClientResponse:
        """Read the head. Raises StaleConnection."""
        protocol = connection.protocol
        try:
            return await super().start(connection)
        except TimeoutError:
            raise
        except (ClientConnectionError, OSError) as error:
            if isinstance(protocol, _CountedHandler) and protocol.requests > 1 and not protocol.has_begun:
                raise StaleConnection from error
            raise

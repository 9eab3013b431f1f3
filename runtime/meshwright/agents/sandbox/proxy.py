"""The way out of a box: an HTTP proxy of ours that lets a run to the hosts that it may call, and no others.

It listens in the box's own network, which has nothing else. Names are resolved here, once, and the connection
goes to the address that was looked at, so that no name can lead elsewhere.
"""

from __future__ import annotations

import asyncio
import re
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from meshwright.core.errors import InvalidInput
from meshwright.core.http_calls import is_metadata, is_public
from meshwright.core.streams import PEER_GONE

_CHUNK_BYTES = 65_536
_MAX_HEAD_BYTES = 16_384
_HEAD_SECONDS, _CONNECT_SECONDS = 10.0, 20.0
_MAX_CONNECTIONS = 64
_MAX_REFUSED = 20
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]{0,252}[a-z0-9_])?|\[[0-9a-f:.]{2,45}\]")
_OF_THE_PROXY = ("proxy-", "connection:", "keep-alive:", "host:")
_TLS_PORT = 443


class Place(NamedTuple):
    """A host and a port. The host may begin with `*.`, for all names below a domain."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def covers(self, other: Place) -> bool:
        """Whether it is the other place, or all of it is below its `*.`."""
        if self.port != other.port:
            return False
        return self.host == other.host or (self.host.startswith("*.") and other.host.endswith(self.host[1:]))


def parse_place(text: str) -> Place:
    """`host:port`, or `host` for port 443. Raises InvalidInput."""
    match = re.fullmatch(r"(?P<host>\[[^\]]*\]|[^:]*)(:(?P<port>\d{1,5}))?", text.lower())
    port = int(match["port"] or _TLS_PORT) if match else 0
    if not match or not _HOST.fullmatch(match["host"]) or not 0 < port < 65_536:
        raise InvalidInput(f"{text!r} is no host: expected host:port, such as pypi.org:443")
    return Place(match["host"], port)


class HostProxy:
    """The proxy of one run: it connects to `allowed` places, at public addresses unless private ones may be.

    `refused` lists what it did not connect to, each with the reason; `tell` hears of each once.
    """

    def __init__(
        self,
        allowed: Sequence[Place],
        *,
        allow_private: bool = False,
        tell: Callable[[Place, str], None] = lambda place, reason: None,
    ) -> None:
        self.refused: list[str] = []
        self._allowed = allowed
        self._allow_private = allow_private
        self._tell = tell
        self._seen = set[Place]()
        self._connections = set[asyncio.Task[None]]()
        self._server: asyncio.Server | None = None

    async def serve(self, listener: socket.socket) -> None:
        """Accept connections at a listening socket, until it is closed."""
        listener.setblocking(False)
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=_MAX_HEAD_BYTES)

    async def close(self) -> None:
        """End all connections, and accept no more."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS:
            return writer.close()
        connection = asyncio.create_task(self._handle(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _handle(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await self._connect(reader, writer)
            await _close(writer)
        except (*PEER_GONE, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the program in the box sees its connection end
        finally:
            writer.transport.abort()

    async def _connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        async with asyncio.timeout(_HEAD_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        try:
            place, request = _read_request(first, lines)
            connection = await self._dial(place)
        except InvalidInput as error:
            return await _answer(writer, "400 Bad Request", error.message)
        except PermissionError as error:
            return await _answer(writer, "403 Forbidden", str(error))
        except (OSError, TimeoutError) as error:
            return await _answer(writer, "502 Bad Gateway", str(error) or "no answer in time")
        there, back = await asyncio.open_connection(sock=connection)
        try:
            if request:
                back.write(request)
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
            await _close(back)
        finally:
            back.transport.abort()

    async def _dial(self, place: Place) -> socket.socket:
        """Connect to a place. Raises PermissionError where the run may not, OSError, TimeoutError."""
        if not any(allowed.covers(place) for allowed in self._allowed):
            raise self._refuse(place, "the run may not call this host")
        loop = asyncio.get_running_loop()
        error: OSError = OSError(f"{place.host} has no address")
        async with asyncio.timeout(_CONNECT_SECONDS):
            addresses = await loop.getaddrinfo(place.host.strip("[]"), place.port, type=socket.SOCK_STREAM)
            for family, kind, protocol, _, address in addresses:
                if not self._may_reach(str(address[0])):
                    raise self._refuse(place, f"it leads to {address[0]}, which is no public address")
                connection = socket.socket(family, kind, protocol)
                connection.setblocking(False)
                try:
                    await loop.sock_connect(connection, address)
                except OSError as failed:
                    connection.close()
                    error = failed
                except BaseException:  # cancelled as it connects: nothing else would close it
                    connection.close()
                    raise
                else:
                    return connection
        raise error

    def _may_reach(self, address: str) -> bool:
        if not self._allow_private:
            return is_public(address)
        return not is_metadata(address) and not ip_address(address).is_unspecified

    def _refuse(self, place: Place, reason: str) -> PermissionError:
        if place not in self._seen and len(self._seen) < _MAX_REFUSED:
            self._seen.add(place)
            self.refused.append(f"{place}: {reason}")
            self._tell(place, reason)
        return PermissionError(f"{place}: {reason}")


def _read_request(first: str, lines: Sequence[str]) -> tuple[Place, bytes]:
    """The place of a request, and what goes to its server first: nothing for CONNECT. Raises InvalidInput."""
    method, _, rest = first.partition(" ")
    target, _, version = rest.partition(" ")
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        raise InvalidInput("expected a request to a proxy")
    if method == "CONNECT":
        return parse_place(target), b""
    try:
        parts = urlsplit(target)
        port = parts.port or 80
    except ValueError as error:
        raise InvalidInput(f"{target!r} is no address") from error
    if parts.scheme != "http" or not parts.hostname:
        raise InvalidInput("expected CONNECT, or an address that begins with http://")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    headers = [line for line in lines if not line.lower().startswith(_OF_THE_PROXY)]
    head = [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close", *headers, "", ""]
    return parse_place(f"{host}:{port}"), "\r\n".join(head).encode("latin-1")


async def _copy(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(*PEER_GONE):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    with suppress(*PEER_GONE):
        writer.write_eof()


async def _close(writer: StreamWriter) -> None:
    """Close once all is sent."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _answer(writer: StreamWriter, status: str, reason: str) -> None:
    text = f"{reason}\n".encode()
    head = (
        f"HTTP/1.1 {status}",
        "Content-Type: text/plain",
        f"Content-Length: {len(text)}",
        "Connection: close",
    )
    writer.write("\r\n".join((*head, "", "")).encode() + text)
    await writer.drain()

"""Limits of every HTTP server of a mesh: headers, the time that a request may take to arrive, connections."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
import ssl
import struct
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, NoReturn

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 * 1024  # request line and headers together, as they are sent
MAX_HEADERS = 100
HEADER_SECONDS = 10.0  # from the first byte of a request to the end of its headers
BODY_SECONDS = 30.0  # from there to the end of its body
KEEP_ALIVE_SECONDS = 20  # a connection waits for its next request: longer than most clients keep one
UNREAD_SECONDS = 60.0  # that a client may read nothing of an answer that is ready
_ACCESS = logging.getLogger("uvicorn.access")
_LINGER_SECONDS = 1.0  # so long a refused client may read why before the connection is reset
MAX_CONNECTIONS = 2_000
PEER_UID = "meshwright.peer_uid"
"""The key in the state of a request over a Unix socket: the user at the other end, as the system says."""
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid

TOO_LARGE = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
REFUSALS = {
    HTTPStatus.BAD_REQUEST: ("The request is not valid HTTP.", "send HTTP/1.1"),
    HTTPStatus.REQUEST_TIMEOUT: (
        f"The request was not complete in time: {HEADER_SECONDS:g} s for its headers, "
        f"{BODY_SECONDS:g} s for its body.",
        "send it without pauses",
    ),
    TOO_LARGE: (
        f"The headers are larger than {MAX_HEADER_BYTES:,} bytes, or more than {MAX_HEADERS}.",
        "send fewer or shorter headers, and data in the body",
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: ("The mesh has too many connections.", "try again in a moment"),
}
"""The answer to a refused client: the reason, and the remedy."""


def max_connections() -> int:
    """How many connections one server holds: three quarters of the files that this process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, files * 3 // 4))
    )


class _LimitedProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP protocol with limits on what a client may send, and how slowly.

    Responses have no limit of time, so event streams go on for as long as they want, but a client that reads
    nothing of what is ready is cut off. A connection that waits for its next request ends after uvicorn's
    `timeout_keep_alive`.
    """

    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _in_body = False
    _refused = False
    _fault = HTTPStatus.BAD_REQUEST  # what the parser stops for
    _unparsed = 0  # bytes since the parser last completed something

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, unless there are too many connections."""
        super().connection_made(transport)
        if (peer_uid := _peer_uid(transport)) is not None:  # WebSockets inherit it from their request
            self.app_state = {**self.app_state, PEER_UID: peer_uid}
        limit = max_connections()
        if len(self.connections) <= limit:
            self._allow(max(HEADER_SECONDS, self.timeout_keep_alive))
        elif len(self.connections) <= limit + limit // 8:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            self._refused = True
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._allow(None)
        self._stop_waiting()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        """Parse the bytes that have arrived; nothing after a refusal."""
        if self._refused:
            return
        if not self._unparsed and not self._in_body:
            self._allow(HEADER_SECONDS)
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEADER_BYTES and not self._refused:
            self._refuse(TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the header; trailers count too."""
        super().on_header(name, value.rstrip(b" \t"))  # httptools leaves it there (RFC 9110, 5.5)
        if len(self.headers) > MAX_HEADERS:
            self._stop_parsing()

    def on_headers_complete(self) -> None:
        if self._unparsed > MAX_HEADER_BYTES and self._header_bytes() > MAX_HEADER_BYTES:
            self._stop_parsing()
        self._unparsed, self._in_body = 0, True
        self._allow(BODY_SECONDS)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed, self._in_body = 0, False
        self._allow(None)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser stopped at."""
        self._refuse(self._fault)

    def _stop_parsing(self) -> NoReturn:
        self._fault = TOO_LARGE
        raise ValueError("headers over the limit")  # the parser ends, and uvicorn calls send_400_response

    def _header_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _allow(self, seconds: float | None) -> None:
        """Start the deadline again, or end it."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._expire, seconds)

    def _expire(self, seconds: float) -> None:
        if self.flow.read_paused:  # it is us who do not read
            self._allow(seconds)
        elif self._unparsed or self._in_body:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer in place of the application where no answer is under way, and close the connection."""
        self._refused = True
        self._allow(None)
        if self.transport.is_closing():
            return
        if not self._may_answer():
            self.transport.close()
            return
        if self.cycle is not None:  # what the application sends from now on goes nowhere
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(_refusal(status, self.server_state.default_headers))
        self.flow.pause_reading()
        self._deadline = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def _wait_for_reader(self, unread: int | None = None) -> None:
        size = self.transport.get_write_buffer_size()
        if unread is not None and size >= unread:
            self.transport.abort()
        else:
            self._unread = self.loop.call_later(UNREAD_SECONDS, self._wait_for_reader, size)

    def _stop_waiting(self) -> None:
        if self._unread is not None:
            self._unread.cancel()

    def _may_answer(self) -> bool:
        if self.pipeline:
            return False
        cycle = self.cycle
        return cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started)


def _peer_uid(transport: asyncio.Transport) -> int | None:
    """The user at the other end of a Unix socket; None over any other."""
    there = transport.get_extra_info("socket")
    if there is None or there.family != socket.AF_UNIX:
        return None
    credentials = there.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(credentials)[1]


def _refusal(status: HTTPStatus, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    detail, remedy = REFUSALS[status]
    code = "".join(word.title() for word in status.phrase.split())
    problem = {
        "type": f"urn:meshwright:problem:{code}",
        "title": status.phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "remedy": remedy,
    }
    body = f"{json.dumps(problem)}\n".encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}".encode(),
        *(b"%s: %s" % header for header in headers),
        b"content-type: application/problem+json",
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _cut_query(record: logging.LogRecord) -> bool:
    """Take the query out of the line of a request: it may hold a token, or the words of a person."""
    if isinstance(record.args, tuple):
        texts = [value.partition("?")[0] if isinstance(value, str) else value for value in record.args]
        record.args = tuple(texts)
    return True


class LimitedServer(uvicorn.Server):
    """Uvicorn within these limits, in a loop of ours: signals and logs are left to others."""

    _running: asyncio.Task[None] | None = None

    def __init__(
        self, app: ASGIApp, *, ws: Any = "none", keep_alive_seconds: int = KEEP_ALIVE_SECONDS, **options: Any
    ) -> None:
        _ACCESS.addFilter(_cut_query)  # that filter once, by identity
        super().__init__(
            uvicorn.Config(
                app,
                http=_LimitedProtocol,
                lifespan="off",
                log_config=None,
                access_log=_ACCESS.isEnabledFor(logging.INFO),
                server_header=False,
                proxy_headers=False,
                ws=ws,
                timeout_keep_alive=keep_alive_seconds,
                **options,
            )
        )

    async def start(
        self,
        listener: socket.socket,
        *,
        tls: ssl.SSLContext | None = None,
        local: socket.socket | None = None,
        plain: socket.socket | None = None,
    ) -> None:
        """Begin to serve on a socket, by `tls`; returns when requests are answered.

        It serves without TLS on `local`, a Unix socket, and on `plain`.
        """
        self.config.load()
        self.config.ssl = tls
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup([listener])
        if local is not None:
            unix = await asyncio.get_running_loop().create_unix_server(self._protocol, sock=local)
            self.servers.append(unix)
        if plain is not None:
            self.servers.append(await asyncio.get_running_loop().create_server(self._protocol, sock=plain))
        await self.on_tick(0)  # sets the headers of every answer
        self._running = asyncio.create_task(self._run(listener), name="http-server")

    def stop(self) -> None:
        """Take no more requests, and end when those under way have their answers."""
        self.should_exit = True

    async def close(self) -> None:
        """Stop, and return when the server has ended. Idempotent."""
        self.stop()
        if self._running is not None:
            await asyncio.shield(self._running)

    def _protocol(self) -> _LimitedProtocol:
        return _LimitedProtocol(self.config, self.server_state, self.lifespan.state)

    async def _run(self, listener: socket.socket) -> None:
        await self.main_loop()
        await self.shutdown([listener])

"""Serves the API: on one socket, until it is told to stop, and then without cutting anybody off."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from fastapi import FastAPI

from meshwright.edges.auth import keys_required
from meshwright.edges.http.app import create_app, is_loopback
from meshwright.edges.http.events import Streams
from meshwright.errors import ConfigError
from meshwright.http_limits import LimitedProtocol
from meshwright.mesh import Mesh

_BACKLOG = 2048
_STOP_SECONDS = 10  # what requests under way have to end, once the server stops
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SECURITY_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]
"""What every answer tells browsers: to load nothing from elsewhere, and to show no page in a frame."""
_UPGRADE_WARNINGS = ("Unsupported upgrade request", "No supported WebSocket library")

_MakeApp = Callable[[Mesh, Streams], FastAPI]
"""What makes the application that is served."""


async def serve(
    mesh: Mesh,
    listener: socket.socket,
    on_ready: Callable[[str], None],
    make_app: _MakeApp = create_app,
) -> None:
    """Serve a running mesh until SIGINT or SIGTERM; a second one cuts off what is under way.

    The socket is what `listen` gave; `on_ready` gets the URL once requests are answered. Raises ConfigError
    where other machines could use a mesh that requires no key, StoreFailed when the mesh cannot go on.
    """
    await _check_exposure(mesh, listener)
    loop = asyncio.get_running_loop()
    async with _serving(mesh, listener, make_app) as server:
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, server.interrupt)
        try:
            on_ready(server.url)
            await _until_it_ends(server, mesh)
        finally:
            for number in _STOP_SIGNALS:
                loop.remove_signal_handler(number)


async def _check_exposure(mesh: Mesh, listener: socket.socket) -> None:
    """Raise ConfigError for a listener off loopback where callers need no key, unless that is meant."""
    host = listener.getsockname()[0]
    if is_loopback(host) or mesh.settings.http.insecure or await keys_required(mesh.keys, mesh.settings):
        return
    raise ConfigError(
        f"http.host {host} lets other machines in, and this mesh requires no key",
        remedy="create one with mesh keys create, set keys.required = true, or start it with --insecure",
        field="listen_host",
    )


async def _until_it_ends(server: Server, mesh: Mesh) -> None:
    """Until somebody stops the server; raises why the mesh cannot go on, if that is first."""
    stopped = asyncio.create_task(server.wait())
    failed = asyncio.create_task(mesh.failure())
    await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        server.stop()
        await stopped
        raise failed.result()
    failed.cancel()


@asynccontextmanager
async def serving(mesh: Mesh, host: str, port: int, make_app: _MakeApp = create_app) -> AsyncIterator[Server]:
    """Serve a running mesh within a block, and its `url`. Raises what `listen` raises."""
    with listen(host, port) as listener:
        async with _serving(mesh, listener, make_app) as server:
            yield server


@asynccontextmanager
async def _serving(mesh: Mesh, listener: socket.socket, make_app: _MakeApp) -> AsyncIterator[Server]:
    server = Server(mesh, listener, make_app)
    await server.start()
    try:
        yield server
    finally:
        server.stop()
        await server.wait()


class Server(uvicorn.Server):
    """Uvicorn on a socket of ours: signals are left to us, and event streams end when it stops."""

    def __init__(self, mesh: Mesh, listener: socket.socket, make_app: _MakeApp = create_app) -> None:
        self._streams = Streams()
        super().__init__(
            uvicorn.Config(
                make_app(mesh, self._streams),
                http=LimitedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                headers=_SECURITY_HEADERS,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_is_no_upgrade_warning)  # that filter once, by identity
        self._listener = listener
        self._answering = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self.url = _url(listener)

    async def start(self) -> None:
        """Begin to serve; requests are answered when this returns."""
        self._running = asyncio.create_task(self.serve([self._listener]), name="http-server")
        answering = asyncio.create_task(self._answering.wait())
        await asyncio.wait({self._running, answering}, return_when=asyncio.FIRST_COMPLETED)
        answering.cancel()
        if self._running.done():
            await self._running

    async def wait(self) -> None:
        """Return when the server has ended."""
        if self._running is not None:
            await asyncio.shield(self._running)

    def stop(self) -> None:
        """Take no more requests, and end when those under way have their answers."""
        self.should_exit = True

    def interrupt(self) -> None:
        """Stop; asked for a second time, at once."""
        self.force_exit = self.should_exit
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self._answering.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, which would not end by themselves, then everything else."""
        self._streams.close()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to whoever serves."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """Take an address, before there is a mesh to serve there: what asks early is answered when there is.

    Port 0 takes any free one. Raises ConfigError where the address cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Its connections inherit it: asyncio does not set it, and then each reply waits 40 ms.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise _no_address(host, port, error) from error
    listener.setblocking(False)
    return listener


def _no_address(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        message = f"port {port} of {host} is in use"
        return ConfigError(
            message, remedy="choose another with --port N, or 0 for a free one", field="listen_port"
        )
    if error.errno == errno.EACCES:
        message = f"port {port} may not be listened on: {error.strerror}"
        return ConfigError(message, remedy="choose one from 1024 up with --port N", field="listen_port")
    message = f"{host!r} cannot be listened on: {error.strerror or error}"
    return ConfigError(message, remedy="127.0.0.1 is this machine alone", field="listen_host")


def _url(listener: socket.socket) -> str:
    """Where a socket listens; an unspecified address is all of this machine's."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_no_upgrade_warning(record: logging.LogRecord) -> bool:
    """False for uvicorn's advice to install a WebSocket library: such a request is answered as any other."""
    return not str(record.msg).startswith(_UPGRADE_WARNINGS)

"""Serves the API: on one socket, until it is told to stop, and then without cutting anybody off."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

from fastapi import FastAPI

from meshwright.core.clock import unless
from meshwright.core.errors import ConfigError
from meshwright.core.http_limits import LimitedServer
from meshwright.edges.auth import keys_required
from meshwright.edges.http.app import create_app, is_loopback
from meshwright.edges.http.events import Streams
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
    host = listener.getsockname()[0]
    is_open = not (mesh.settings.http.insecure or await keys_required(mesh.keys, mesh.settings))
    if is_open and not is_loopback(host):
        raise ConfigError(
            f"http.host {host} lets other machines in, and this mesh requires no key",
            remedy="create one with mesh keys create, set keys.required = true, or start it with --insecure",
            field="listen_host",
        )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    with ExitStack() as signals:
        async with _serving(mesh, listener, make_app) as server:

            def interrupt() -> None:
                server.force_exit = stopping.is_set()
                stopping.set()

            for number in _STOP_SIGNALS:
                loop.add_signal_handler(number, interrupt)
                signals.callback(loop.remove_signal_handler, number)
            on_ready(server.url)
            failure = await unless(stopping, mesh.failure())
        if failure is not None:
            raise failure


@asynccontextmanager
async def serving(mesh: Mesh, host: str, port: int, make_app: _MakeApp = create_app) -> AsyncIterator[Server]:
    """Serve a running mesh within a block, and its `url`. Raises what `listen` raises."""
    with listen(host, port) as listener:
        async with _serving(mesh, listener, make_app) as server:
            yield server


@asynccontextmanager
async def _serving(mesh: Mesh, listener: socket.socket, make_app: _MakeApp) -> AsyncIterator[Server]:
    server = Server(mesh, listener, make_app)
    await server.start(listener)
    try:
        yield server
    finally:
        await server.close()


class Server(LimitedServer):
    """A server of the API at a `url`, whose event streams end when it stops."""

    def __init__(self, mesh: Mesh, listener: socket.socket, make_app: _MakeApp) -> None:
        self._streams = Streams()
        super().__init__(
            make_app(mesh, self._streams),
            headers=_SECURITY_HEADERS,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        logging.getLogger("uvicorn.error").addFilter(_is_no_upgrade_warning)  # that filter once, by identity
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, which would not end by themselves, then everything else."""
        self._streams.close()
        await super().shutdown(sockets)


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
    message, remedy, field = {
        errno.EADDRINUSE: (
            f"port {port} of {host} is in use",
            "choose another with --port N, or 0 for a free one",
            "listen_port",
        ),
        errno.EACCES: (
            f"port {port} may not be listened on: {error.strerror}",
            "choose one from 1024 up with --port N",
            "listen_port",
        ),
    }.get(
        error.errno or 0,
        (
            f"{host!r} cannot be listened on: {error.strerror or error}",
            "127.0.0.1 is this machine alone",
            "listen_host",
        ),
    )
    return ConfigError(message, remedy=remedy, field=field)


def _is_no_upgrade_warning(record: logging.LogRecord) -> bool:
    """False for uvicorn's advice to install a WebSocket library: such a request is answered as any other."""
    return not str(record.msg).startswith(_UPGRADE_WARNINGS)

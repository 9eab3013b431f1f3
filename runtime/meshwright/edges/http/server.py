"""Serves the API on one socket until it is stopped; running requests then finish."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from meshwright.core.clock import unless
from meshwright.core.errors import ConfigError
from meshwright.core.http_limits import LimitedServer
from meshwright.edges.http.app import create_app, is_loopback
from meshwright.edges.http.events import Streams
from meshwright.edges.http.settings import HttpSettings
from meshwright.edges.tls import Certificate
from meshwright.engine.sql.folder import SOCKET_NAME
from meshwright.mesh.mesh import Mesh
from meshwright.money.keys import Keys, keys_required

_LOOPBACK = "127.0.0.1"
_BACKLOG = 2048
_STOP_SECONDS = 10  # what requests under way have to end, once the server stops
_MAX_MESSAGE_BYTES = 64 * 1024  # of a WebSocket's client
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
"""Headers of all answers: browsers load nothing from elsewhere, and show no page in a frame."""
_UPGRADE_WARNING = "Unsupported upgrade request"

_MakeApp = Callable[[Mesh, Streams], FastAPI]
"""Makes the application that is served."""


async def serve(
    mesh: Mesh,
    listener: socket.socket,
    on_ready: Callable[[str], None],
    make_app: _MakeApp = create_app,
    *,
    has_socket: bool = False,
) -> None:
    """Serve a running mesh until SIGINT or SIGTERM; a second one cuts off what is under way.

    The socket is what `listen` gave; `on_ready` gets the URL once requests are answered. With `has_socket` it
    is served at `mesh.sock` of the data folder too. Raises ConfigError where other machines could use a mesh
    that requires no key or speaks no TLS, StoreFailed when the mesh cannot go on.
    """
    await _check_exposed(mesh, listener.getsockname()[0])
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    with ExitStack() as signals:
        local = signals.enter_context(local_socket(mesh.settings.data_dir)) if has_socket else None
        async with _serving(mesh, listener, make_app, local) as server:

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


async def _check_exposed(mesh: Mesh, host: str) -> None:
    """Raise ConfigError for a mesh that other machines could use, or listen to."""
    settings = mesh.settings
    if is_loopback(host):
        return
    missing = []
    if not await keys_required(mesh.get(Keys), settings):
        missing.append(("requires no key", "create one with mesh keys create, or set keys.required = true"))
    if settings[HttpSettings].tls_cert is None and not settings[HttpSettings].behind_tls:
        remedy = (
            "set http.tls_cert and http.tls_key, or give --behind-tls where TLS ends at a proxy before it"
        )
        missing.append(("speaks no TLS", remedy))
    if missing:
        faults, remedies = zip(*missing, strict=True)
        if settings[HttpSettings].insecure:
            everybody = (
                "%s lets other machines in, and this mesh %s: everybody who reaches it may use it or listen"
            )
            logging.getLogger("meshwright.http").warning(everybody, host, " and ".join(faults))
            return
        raise ConfigError(
            f"http.host {host} lets other machines in, and this mesh {' and '.join(faults)}",
            remedy=f"{'; '.join(remedies)}. Or keep it on loopback; --insecure starts it all the same",
            field="listen_host",
        )


@contextmanager
def local_socket(folder: Path) -> Iterator[socket.socket | None]:
    """Listen at the Unix socket of a data folder, which only its owner and root may use.

    None, with a warning, where the system or the length of the path allows none.
    """
    path = folder / SOCKET_NAME
    listener = None
    try:
        if not hasattr(socket, "SO_PEERCRED"):
            raise OSError("this system does not say who is at its other end")
        if path.is_socket():
            path.unlink()  # of a mesh that was killed: the lock of the folder is ours
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        if listener is not None:
            listener.close()
        listener = None
        logging.getLogger("meshwright.http").warning(
            "There is no socket at %s (%s): commands use the admin token", path, error.strerror or error
        )
    try:
        yield listener
    finally:
        if listener is not None:
            listener.close()
            path.unlink(missing_ok=True)


@asynccontextmanager
async def serving(mesh: Mesh, host: str, port: int, make_app: _MakeApp = create_app) -> AsyncIterator[Server]:
    """Serve a running mesh within a block, and its `url`. Raises what `listen` raises."""
    with listen(host, port) as listener:
        async with _serving(mesh, listener, make_app) as server:
            yield server


@asynccontextmanager
async def _serving(
    mesh: Mesh, listener: socket.socket, make_app: _MakeApp, local: socket.socket | None = None
) -> AsyncIterator[Server]:
    http = mesh.settings[HttpSettings]
    cert, key = http.tls_cert, http.tls_key
    certificate = Certificate(mesh.project / cert, mesh.project / key) if cert and key else None
    server = Server(mesh, listener, make_app, scheme="https" if certificate else "http")
    plain = listen(_LOOPBACK, http.plain_port) if certificate and http.plain_port else None
    await server.start(listener, tls=certificate.context if certificate else None, local=local, plain=plain)
    try:
        async with certificate.reloading(mesh.tell) if certificate else nullcontext():
            yield server
    finally:
        await server.close()


class Server(LimitedServer):
    """A server of the API at a `url`, whose event streams end when it stops."""

    def __init__(self, mesh: Mesh, listener: socket.socket, make_app: _MakeApp, scheme: str = "http") -> None:
        self._streams = Streams()
        super().__init__(
            make_app(mesh, self._streams),
            headers=_SECURITY_HEADERS,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_STOP_SECONDS,
            ws=_speak_websocket,
            ws_max_size=_MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,
        )
        logging.getLogger("uvicorn.error").addFilter(_is_no_upgrade_warning)  # that filter once, by identity
        host, port = listener.getsockname()[:2]
        self.url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

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


def _speak_websocket(**connection: Any) -> asyncio.Protocol:
    """Take over a connection whose client asked for WebSocket; its libraries are imported for the first."""
    from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

    return WSProtocol(**connection)


def _is_no_upgrade_warning(record: logging.LogRecord) -> bool:
    """False for an upgrade that uvicorn does not know: such a request is answered as any other."""
    return not str(record.msg).startswith(_UPGRADE_WARNING)

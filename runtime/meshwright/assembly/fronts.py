"""Fronts: the HTTP API on its address."""

from __future__ import annotations

from collections.abc import Callable
from socket import socket

from meshwright.mesh import Mesh
from meshwright.settings import Settings


def listen(settings: Settings) -> socket:
    """Take the address of the HTTP API, before its mesh starts. Raises ConfigError where it cannot be had."""
    from meshwright.api.server import listen as listen_on

    return listen_on(settings.listen_host, settings.listen_port)


async def serve(mesh: Mesh, listener: socket, on_ready: Callable[[str], None]) -> None:
    """Serve the HTTP API of a running mesh until SIGINT or SIGTERM. `on_ready` gets the URL."""
    from meshwright.api.server import serve as serve_http

    await serve_http(mesh, listener, on_ready)

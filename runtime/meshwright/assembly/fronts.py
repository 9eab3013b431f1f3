"""Fronts: the HTTP API on its address, or of it what calls models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from socket import socket
from typing import TYPE_CHECKING

from meshwright.component import Component
from meshwright.mesh import Mesh
from meshwright.settings import Settings

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI


def listen(settings: Settings) -> socket:
    """Take the address of the HTTP API, before its mesh starts. Raises ConfigError where it cannot be had."""
    from meshwright.edges.http.server import listen as listen_on

    return listen_on(settings.listen_host, settings.listen_port)


async def serve(mesh: Mesh, listener: socket, on_ready: Callable[[str], None]) -> None:
    """Serve the HTTP API of a running mesh until SIGINT or SIGTERM. `on_ready` gets the URL."""
    from meshwright.edges.http.app import create_app
    from meshwright.edges.http.server import serve as serve_http

    make_app = partial(create_app, groups=mesh.groups, routers=_routers(mesh))
    await serve_http(mesh, listener, on_ready, make_app)


def http_app(mesh: Mesh) -> FastAPI:
    """The HTTP API of a running mesh as an ASGI application, for clients in this process."""
    from meshwright.edges.http.app import create_app

    return create_app(mesh, groups=mesh.groups, routers=_routers(mesh))


async def serve_models(mesh: Mesh, listener: socket, on_ready: Callable[[str], None]) -> None:
    """Serve what calls a running mesh's models, and nothing else, until SIGINT or SIGTERM."""
    from meshwright.edges.http.app import create_llm_app
    from meshwright.edges.http.server import serve as serve_http

    await serve_http(mesh, listener, on_ready, partial(create_llm_app, groups=mesh.groups))


def _routers(mesh: Mesh) -> list[APIRouter]:
    """The routes of components."""
    components = [component for component in mesh.components if isinstance(component, Component)]
    return [router for component in components if (router := component.routes()) is not None]

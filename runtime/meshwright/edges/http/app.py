"""The application: the routers of the API, and those of components, over one mesh."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Response

from meshwright import __version__
from meshwright.component import Component
from meshwright.edges.auth import Authenticator, KeyAuthenticator
from meshwright.edges.http import events, keys, mesh_routes, models, tasks
from meshwright.edges.http.errors import handle_errors
from meshwright.edges.http.events import Streams
from meshwright.edges.http.guard import Authentication, BrowserGuard
from meshwright.edges.http.openapi import ANY_PROBLEM, DESCRIPTION
from meshwright.edges.http.routing import JsonLine
from meshwright.mesh import Mesh

_MODEL_ROUTERS = (models.router, keys.router, mesh_routes.probes)
_ROUTERS = (tasks.router, events.router, mesh_routes.router, *_MODEL_ROUTERS)
_PAGES = {
    "/docs": ("docs.html", "text/html"),
    "/docs/docs.css": ("docs.css", "text/css"),
    "/docs/docs.js": ("docs.js", "text/javascript"),
}


def create_app(
    mesh: Mesh,
    streams: Streams | None = None,
    *,
    groups: tuple[str, ...] | None = None,
    authenticator: Authenticator | None = None,
) -> FastAPI:
    """Makes the HTTP API of a mesh with the routes of its components; the caller starts and stops the mesh.

    `streams.close()` ends the event streams, which would otherwise keep a server from stopping. `groups` are
    the models that may be named, by default those that the mesh knows.
    """
    components = [component for component in mesh.components if isinstance(component, Component)]
    brought = [router for component in components if (router := component.routes()) is not None]
    return _app(mesh, _ROUTERS, brought, streams or Streams(), groups or mesh.groups, authenticator)


def create_llm_app(
    mesh: Mesh,
    streams: Streams | None = None,
    *,
    groups: tuple[str, ...] | None = None,
    authenticator: Authenticator | None = None,
) -> FastAPI:
    """Makes the HTTP API of a worker that offers models, and has no front."""
    return _app(mesh, _MODEL_ROUTERS, (), streams or Streams(), groups or mesh.groups, authenticator)


def _app(
    mesh: Mesh,
    own: Iterable[APIRouter],
    others: Iterable[APIRouter],
    streams: Streams,
    groups: tuple[str, ...] | None,
    authenticator: Authenticator | None,
) -> FastAPI:
    app = FastAPI(
        title="Meshwright",
        version=__version__,
        description=DESCRIPTION.strip(),
        responses=ANY_PROBLEM,
        routes=[route for router in own for route in router.routes],  # an included router is matched twice
        redirect_slashes=False,
        docs_url=None,  # FastAPI's pages load their scripts from other sites
        redoc_url=None,
    )
    app.state.mesh, app.state.streams, app.state.groups = mesh, streams, groups
    for router in others:
        app.include_router(router)
    app.add_api_route("/", _welcome, include_in_schema=False, response_class=JsonLine)
    for path, (name, media_type) in _PAGES.items():
        app.add_api_route(path, _page(name, media_type), include_in_schema=False)
    handle_errors(app)
    authenticator = authenticator or KeyAuthenticator(mesh.keys, mesh.settings)
    app.add_middleware(Authentication, authenticator=authenticator)
    app.add_middleware(BrowserGuard, settings=mesh.settings)
    return app


async def _welcome() -> dict[str, str]:
    return {"name": "meshwright", "version": __version__, "docs": "/docs", "openapi": "/openapi.json"}


def _page(name: str, media_type: str) -> Callable[[], Coroutine[Any, Any, Response]]:
    content = files("meshwright.edges.http").joinpath("pages", name).read_bytes()

    async def show() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return show

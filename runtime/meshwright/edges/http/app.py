"""The application: the routes of the API and of components, and the gate for all requests."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import lru_cache, partial
from hashlib import sha256
from ipaddress import ip_address
from operator import itemgetter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from meshwright.core import __version__
from meshwright.core.errors import InvalidInput, MeshError
from meshwright.core.http_limits import PEER_UID
from meshwright.core.ids import ID_PATTERN
from meshwright.edges.http import events, models, tasks
from meshwright.edges.http.errors import (
    CALLER,
    KIND,
    Brake,
    answer_error,
    error_response,
    handle_errors,
    record_misuse,
    router_kind,
)
from meshwright.edges.http.events import Streams
from meshwright.edges.http.operation_routes import make_routes
from meshwright.edges.http.pages import page_routes
from meshwright.edges.http.routing import ANY_PROBLEM, RouterKinds, complete_document, make_router
from meshwright.edges.http.sessions import CREDENTIALS, Sessions
from meshwright.edges.http.settings import HttpSettings
from meshwright.mesh.components import Component
from meshwright.mesh.identity.administration import Administration, ModelOperations
from meshwright.mesh.identity.auth import Authenticators, Credentials, parse_bearer
from meshwright.mesh.identity.batches import Batches
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tenants import Tenants

_DESCRIPTION = """
Give tasks to a mesh of agents, follow them, and read what happened.

A task is durable once it was answered with 202. Every error is a problem document (RFC 9457) that names the
`field` that was wrong and the `remedy`. Streams are server-sent events and resume by `Last-Event-ID`.
"""
_MODEL_ROUTERS = (models.openai_router, models.anthropic_router, models.router, models.probes)
_MODEL_PARTS = ("keys",)
"""The components whose routes a worker has beside its models."""
_ROUTERS = (
    tasks.router,
    make_routes(Batches, "tasks"),
    events.router,
    make_routes(ModelOperations, "context", "models"),
    make_routes(Administration, "agents", "tasks", "administration"),
    *_MODEL_ROUTERS,
)
_Bare = Callable[[Mesh, Request], Awaitable[Response]]
_BARE: dict[tuple[str, str], _Bare] = {("POST", "/tasks"): tasks.answer_submit}
"""Routes that are answered without the framework, at a third of its cost: the one that is called most."""
_SINGLE = frozenset({b"host", b"origin", b"authorization", b"x-api-key", b"mesh-tenant", b"x-tenant-id"})
_KEY_HEADERS = frozenset({b"authorization", b"x-api-key"})
_PORTS = {"http": 80, "https": 443}
_FORWARDED = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip", b"via"}
)


class _Document(NamedTuple):
    """The document of the API as it is sent."""

    body: bytes
    tag: str


class _Api(FastAPI):
    _document: asyncio.Task[_Document] | None = None

    def openapi(self) -> dict[str, Any]:
        return self.openapi_schema or complete_document(super().openapi())

    async def document(self) -> _Document:
        """Writes the document once, in a thread: it takes a second, and needs no key."""
        if self._document is None:
            self._document = asyncio.create_task(asyncio.to_thread(self._write), name="openapi.json")
        return await asyncio.shield(self._document)

    def _write(self) -> _Document:
        body = bytes(JSONResponse(self.openapi()).body)
        return _Document(body, f'"{sha256(body).hexdigest()}"')


def create_app(
    mesh: Mesh,
    streams: Streams | None = None,
    *,
    groups: tuple[str, ...] | None = None,
    only_models: bool = False,
) -> FastAPI:
    """Makes the HTTP API of a mesh with the routes of its components; the caller starts and stops the mesh.

    `streams.close()` ends the event streams, which would otherwise keep a server from stopping. `groups` are
    the models that may be named, by default those that the mesh knows. A worker without a front offers
    `only_models`.
    """
    routers = _MODEL_ROUTERS if only_models else _ROUTERS
    app = _Api(
        title="Meshwright",
        version=__version__,
        description=_DESCRIPTION.strip(),
        responses=ANY_PROBLEM,
        routes=[
            route for router in routers for route in router.routes
        ],  # an included router is matched twice
        redirect_slashes=False,
        openapi_url=None,  # one of _entry, as it needs no key
        docs_url=None,  # FastAPI's pages load their scripts from other sites
        redoc_url=None,
    )
    app.state.mesh, app.state.streams, app.state.groups = mesh, streams or Streams(), groups
    app.state.brake = Brake()
    components = [part for part in mesh.components if isinstance(part, Component)]
    if only_models:
        components = [part for part in components if part.name in _MODEL_PARTS]
    others = [router for part in components for router in _component_routers(part)]
    app.router.routes += [route for router in others for route in router.routes]
    app.state.agent_models = None if only_models else mesh.find(models.AgentDirectory)  # of their routes
    app.router.routes += [*page_routes([] if only_models else components), *_entry().routes]
    kinds = RouterKinds(app.router.routes)
    handle_errors(app)
    app.state.sessions = Sessions(
        mesh.get(Authenticators),
        mesh.runtime.clock.now,
        tenants=mesh.get(Tenants),
        max_streams=mesh.settings[HttpSettings].max_streams,
    )
    bare = {} if only_models else _BARE
    app.add_middleware(_Gate, mesh=mesh, kinds=kinds, bare=bare)
    return app


create_llm_app = partial(create_app, only_models=True)


def _component_routers(component: Component) -> Sequence[APIRouter]:
    routes = component.routes()
    declared = [make_routes(*component.operations)] if component.operations else []
    return [*declared, *([routes] if isinstance(routes, APIRouter) else routes or ())]


def _entry() -> APIRouter:
    """The way in: the mesh's name, and the document of the API."""
    router = make_router(is_open=True)

    @router.get("/", include_in_schema=False)
    async def welcome() -> dict[str, str]:
        return {"name": "meshwright", "version": __version__, "docs": "/docs", "openapi": "/openapi.json"}

    @router.get("/openapi.json", include_in_schema=False)
    async def document(request: Request) -> Response:
        body, tag = await request.app.document()
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(body, media_type="application/json", headers={"ETag": tag})

    return router


# The gate


class _BadHeader(InvalidInput):
    status = 400


class _Misdirected(InvalidInput):
    """A request under a host name that is not the mesh's."""

    status = 421


class _ForeignOrigin(InvalidInput):
    """A page of another site made a browser send the request."""

    status = 403


class _Gate:
    """Refuses what no honest client sends, and asks the authenticator for the caller of every request.

    The Host header must be one of this mesh's names (DNS rebinding): those of loopback, `allowed_hosts` and,
    where the mesh listens off loopback, IP addresses and the machine's own name. If a browser names an
    Origin, it must be that of the request, or of an allowed host, in scheme, name and port (cross-site
    requests). WebSockets are looked at too. Credentials are checked before a body is read; open routers need
    none.
    """

    def __init__(
        self, app: ASGIApp, mesh: Mesh, kinds: RouterKinds, bare: dict[tuple[str, str], _Bare]
    ) -> None:
        self._app = app
        self._mesh = mesh
        self._authenticator = mesh.get(Authenticators)
        self._single = _SINGLE | {name.encode() for name in self._authenticator.headers}
        self._bare = bare
        self._allowed = frozenset(map(_host_and_port, mesh.settings[HttpSettings].allowed_hosts))
        self._names = frozenset(name for name, _ in self._allowed)
        self._is_behind_tls = mesh.settings[HttpSettings].behind_tls
        self._exposed_names = self._names | {socket.gethostname().lower()}
        self._is_exposed = not is_loopback(mesh.settings[HttpSettings].host)
        self._kinds = kinds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its caller, or answer it."""
        kind, app = scope["type"], self._app
        if kind in ("http", "websocket"):
            headers = [header for header in scope["headers"] if header[0] in self._single]
            single = dict(headers)
            if objection := self._objection(scope, single, is_twice=len(single) != len(headers)):
                app = error_response(objection)
            elif not scope.setdefault(KIND, self._kinds.find(scope)).is_open:
                app = await self._authenticated(scope, receive, single)
        await app(scope, receive, send)

    async def _authenticated(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes]) -> ASGIApp:
        try:
            credentials = scope[CREDENTIALS] = _credentials(scope, headers, self._authenticator.headers)
            scope[CALLER] = await self._authenticator.authenticate(credentials)
            if bare := self._bare.get((scope.get("method", ""), scope["path"])):
                return await bare(self._mesh, Request(scope, receive))
        except MeshError as error:
            if CALLER not in scope and not _KEY_HEADERS.isdisjoint(headers):
                record_misuse(self._mesh, scope, error)
            return await answer_error(Request({**scope, "type": "http"}), error)  # a WebSocket's, too
        except ClientDisconnect as error:
            return await answer_error(Request(scope), error)
        return self._app

    def _objection(self, scope: Scope, headers: dict[bytes, bytes], *, is_twice: bool) -> MeshError | None:
        if is_twice:
            names = ", ".join(sorted(name.decode().title() for name in self._single))
            what = f"The request has two headers of one of these names: {names}"
            return _BadHeader(what, remedy="Send one of each", field="Host")
        host = headers[b"host"].decode("latin-1") if b"host" in headers else None
        origin = headers[b"origin"].decode("latin-1") if b"origin" in headers else None
        try:
            requested = (None, None) if host is None else _host_and_port(host)
        except ValueError:
            what = f"The Host header is not a host name with a port: {host!r:.80}"
            return _BadHeader(what, remedy="Send one like localhost:8000", field="Host")
        name = requested[0]
        if name is not None and not self._is_ours(name, scope):
            return _Misdirected(
                f"This mesh is not {name!r:.80}",
                remedy="Call it by its address; if that name is right, add it to allowed_hosts in mesh.toml",
                field="Host",
            )
        if origin is None or self._is_own_page(origin, requested, scope["scheme"]):
            return None
        return _ForeignOrigin(f"Pages of {origin!r:.80} may not use this mesh", field="Origin")

    def _is_own_page(self, origin: str, requested: tuple[str | None, int | None], scheme: str) -> bool:
        """Whether pages of an origin may use the mesh: its own, and those of the allowed hosts."""
        page_scheme, _, place = origin.partition("://")
        default_port = _PORTS.get(page_scheme)
        try:
            name, port = _host_and_port(place)
        except ValueError:
            return False
        if default_port is None:
            return False
        is_tls = self._is_behind_tls or scheme in ("https", "wss")
        has_fitting_scheme = page_scheme == "https" or not is_tls
        port = port or default_port
        if (name, port) == (requested[0], requested[1] or default_port):
            return has_fitting_scheme or is_loopback(name)  # a browser beside the mesh needs no proxy
        own = {(name, port), (name, None)} if port == default_port else {(name, port)}
        return has_fitting_scheme and not own.isdisjoint(self._allowed)

    def _is_ours(self, name: str, scope: Scope) -> bool:
        if is_loopback(name):
            return True
        if self._is_exposed or not is_loopback((scope.get("server") or ("",))[0]):
            return name in self._exposed_names or _is_address(name)
        return name in self._names


def _credentials(scope: Scope, headers: dict[bytes, bytes], others: Collection[str]) -> Credentials:
    """Returns the credentials of a request. Raises InvalidInput."""
    names = ("Mesh-Tenant", "X-Tenant-Id") if router_kind(scope).names_tenant else ("Mesh-Tenant",)
    tenants: dict[str, str] = {}
    for name in names:
        if tenant := headers.get(name.lower().encode(), b"").decode("latin-1").strip():
            tenants[tenant] = name
            if not re.fullmatch(ID_PATTERN, tenant):
                problem = f"{name} may have letters, digits, - and _, at most 64"
                raise InvalidInput(problem, remedy="Send an id", field=name)
    if len(tenants) > 1:
        problem = f"The headers {' and '.join(names)} name two tenants"
        raise InvalidInput(problem, remedy="Send one of them", field="X-Tenant-Id")
    return Credentials(
        token=_read_token(scope, headers),
        is_local=is_local(scope),
        peer_uid=scope.get("state", {}).get(PEER_UID),
        tenant=next(iter(tenants), None),
        tenant_header=next(iter(tenants.values()), names[0]),
        headers=tuple(
            [(name, headers[name.encode()].decode("latin-1")) for name in others if name.encode() in headers]
        ),
    )


def _read_token(scope: Scope, headers: dict[bytes, bytes]) -> str:
    """The key or token of a request; clients of models may send it as Anthropic's do."""
    token = parse_bearer(headers.get(b"authorization", b"").decode("latin-1"))
    if not token and router_kind(scope).errors != "problem":
        token = headers.get(b"x-api-key", b"").decode("latin-1").strip()
    return token


def is_local(scope: Scope) -> bool:
    """Whether a request began on this machine: over loopback, and handed on by no proxy that says so.

    It grants nothing that keys protect: a proxy that says nothing is local too.
    """
    client, server = scope.get("client") or ("",), scope.get("server") or ("",)
    return (
        is_loopback(client[0])
        and is_loopback(server[0])
        and _FORWARDED.isdisjoint(map(itemgetter(0), scope["headers"]))
    )


@lru_cache(maxsize=64)
def _host_and_port(host: str) -> tuple[str, int | None]:
    """The name and the port of a Host header. Raises ValueError for what is no host."""
    parts = urlsplit(f"//{host}")
    if parts.netloc != host or parts.username is not None or parts.port == 0:
        raise ValueError(host)
    return parts.hostname or "", parts.port


@lru_cache(maxsize=64)
def is_loopback(name: str) -> bool:
    """Whether that is a name or an address of this machine alone."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ip_address(name).is_loopback


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True

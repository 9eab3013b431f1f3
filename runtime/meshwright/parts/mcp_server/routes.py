"""`/mcp`: requests of MCP clients, with the caller that the API knows, and in its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from meshwright.component import Mesh, Operations, make_router
from meshwright.edges.bodies import parse_json
from meshwright.edges.http.errors import CALLER, RouterKind, absolute_url
from meshwright.edges.http.routing import Needs, read_body
from meshwright.kit import Role, Rule
from meshwright.mesh.identity.settings import OidcSettings
from meshwright.parts.mcp_server.exchange import EXCHANGE, Exchange
from meshwright.parts.mcp_server.settings import McpEndpointSettings

if TYPE_CHECKING:
    from meshwright.parts.mcp_server.server import MeshServer

PATH = "/mcp"
_METADATA = f"/.well-known/oauth-protected-resource{PATH}"
_SPEAKS = Needs(Rule("speaks MCP", (Role.VIEWER, Role.SUBMITTER)))
_MAX_DEPTH = 200  # of a message; the payload of a task has its own limit


class McpEndpoint:
    """The routes of the server, which is imported and started by the first request."""

    def __init__(self, mesh: Mesh, settings: McpEndpointSettings) -> None:
        self._mesh = mesh
        self._settings = settings
        self._starting: asyncio.Task[MeshServer] | None = None

    def routers(self) -> list[APIRouter]:
        """The router of `/mcp`, and the open one of its metadata where there is an issuer."""
        issuer = self._mesh.settings[OidcSettings].issuer
        router = make_router("mcp")
        # Not in the document of the API: the protocol describes itself.
        route = _McpRoute(PATH, self._answer, methods=["POST"], include_in_schema=False)
        route.kind = RouterKind(resource_metadata=_METADATA if issuer else "")
        router.routes.append(route)
        # No session outlives a request, so that any worker answers it: there is no stream to open or to end.
        for method in ("GET", "DELETE"):
            router.routes.append(_StreamRoute(PATH, _refuse, methods=[method], include_in_schema=False))
        if issuer is None:
            return [router]
        metadata = make_router("mcp", is_open=True)

        @metadata.get(_METADATA, include_in_schema=False)
        async def describe(request: Request) -> dict[str, Any]:
            """The metadata of the protected resource (RFC 9728)."""
            return {
                "resource": absolute_url(request, PATH),
                "authorization_servers": [issuer],
                "bearer_methods_supported": ["header"],
                "resource_name": "Meshwright",
            }

        return [router, metadata]

    async def _answer(self, request: Request) -> Response:
        await _SPEAKS.caller(request)  # each operation has a rule of its own beside this
        body = await read_body(request, self._mesh.settings)
        try:
            parse_json(body, _MAX_DEPTH)
        except ValueError:
            body = b"{"  # what JSON does not have, such as NaN, is answered as any text that is none
        server = await self._server()
        return _McpResponse(server.handle, self._mesh, body)

    async def _server(self) -> MeshServer:
        if self._starting is None or (self._starting.done() and self._starting.exception()):
            self._starting = asyncio.create_task(self._start(), name="mcp server")
        return await asyncio.shield(self._starting)

    async def _start(self) -> MeshServer:
        # To import the library takes 1.5 s of processor time, for which nobody else has to wait.
        module = await asyncio.to_thread(import_module, "meshwright.parts.mcp_server.server")
        server: MeshServer = module.MeshServer(self._mesh, self._settings)
        await server.start()
        return server

    async def close(self) -> None:
        """End the server, where it has begun."""
        starting, self._starting = self._starting, None
        if starting is not None:
            await asyncio.wait([starting])
            if not starting.cancelled() and not starting.exception():
                await starting.result().close()


class _McpResponse(Response):
    """Passes a request on to the library's server, which answers it itself."""

    def __init__(
        self, handle: Callable[[Scope, Receive, Send], Awaitable[None]], mesh: Mesh, body: bytes
    ) -> None:
        super().__init__()
        self._handle = handle
        self._mesh = mesh
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        unread = [{"type": "http.request", "body": self._body, "more_body": False}]

        async def receive_again() -> Any:
            return unread.pop() if unread else await receive()

        operations = Operations(self._mesh, scope[CALLER])
        state = scope["app"].state
        ending, watched = partial(_ending, state, scope), partial(_watched, state, scope)
        exchange = Exchange(operations, ending, watched, lambda: state.streams.closing().done())
        # The server leaves white space at the end of a header, which the protocol compares with the body.
        headers = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        await self._handle({**scope, "headers": headers, EXCHANGE: exchange}, receive_again, send)


@contextmanager
def _ending(state: Any, scope: Scope) -> Iterator[Collection[asyncio.Future[Any]]]:
    """Futures of which one is done once a waiting request ends: with its credentials, or the server."""
    with state.sessions.hold(scope) as refusal:
        yield refusal, state.streams.closing()
        if refusal.done():
            raise refusal.result()


@contextmanager
def _watched(state: Any, scope: Scope) -> Iterator[Collection[asyncio.Future[Any]]]:
    """The same for a stream, which counts as one of the caller's."""
    with state.sessions.watch(scope) as refusal:
        yield refusal, state.streams.closing()


class _McpRoute(Route):
    """A route whose answers name the metadata of the resource where they ask for credentials."""

    kind: RouterKind


class _StreamRoute(Route):
    """A route for clients that want a stream of events alone: `GET /mcp` lists MCP servers otherwise."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        accepted = b",".join(value for name, value in scope.get("headers", ()) if name == b"accept")
        if scope.get("method") == "GET" and b"text/event-stream" not in accepted:
            return Match.NONE, {}
        return super().matches(scope)


async def _refuse(request: Request) -> Response:
    return Response(status_code=405, headers={"Allow": "POST"})

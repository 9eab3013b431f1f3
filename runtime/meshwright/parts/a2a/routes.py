"""Cards, JSON-RPC at `/a2a` and HTTP+JSON below it, with the caller that the API knows and in its limits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from importlib import import_module
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT
from starlette.types import Scope

from meshwright import MeshError
from meshwright.component import Operations, make_router
from meshwright.core.encoding import encode
from meshwright.core.tracing import valid_trace
from meshwright.edges.bodies import parse_json
from meshwright.edges.http.broadcast import with_pauses
from meshwright.edges.http.errors import CALLER, absolute_url, answer_error
from meshwright.edges.http.events import leaving, open_streams
from meshwright.edges.http.routing import Endpoint, read_body
from meshwright.edges.http.sessions import ServerSentEvents
from meshwright.kit import Role, Rule
from meshwright.parts.a2a.cards import PATH, Directory
from meshwright.parts.a2a.errors import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    VERSION_NOT_SUPPORTED,
    ProtocolError,
    error_kind,
    http_error,
    rpc_error,
    stopping,
)
from meshwright.parts.a2a.settings import A2aSettings
from meshwright.parts.a2a.signatures import JWKS_PATH, CardSigner

_CARD = "/.well-known/agent-card.json"
_RULE = Rule("speaks A2A", (Role.VIEWER, Role.SUBMITTER))
_VERSION = "1.0"
_ENVELOPE_DEPTH = 8  # of a payload in a message in a request
_IN_HTTP = frozenset({401, 413, 429, 503, 507})  # statuses that proxies and clients act upon
_IN_PATH = {"id", "taskId"}
_REST = (
    ("POST", "/message:send", "SendMessage"),
    ("POST", "/message:stream", "SendStreamingMessage"),
    ("GET", "/tasks", "ListTasks"),
    ("POST", "/tasks/{id}:cancel", "CancelTask"),
    ("POST", "/tasks/{id}:subscribe", "SubscribeToTask"),
    ("GET", "/tasks/{id}:subscribe", "SubscribeToTask"),
    ("GET", "/tasks/{id}", "GetTask"),
    ("POST", "/tasks/{taskId}/pushNotificationConfigs", "CreateTaskPushNotificationConfig"),
    ("GET", "/tasks/{taskId}/pushNotificationConfigs", "ListTaskPushNotificationConfigs"),
    ("GET", "/tasks/{taskId}/pushNotificationConfigs/{id}", "GetTaskPushNotificationConfig"),
    ("DELETE", "/tasks/{taskId}/pushNotificationConfigs/{id}", "DeleteTaskPushNotificationConfig"),
    ("GET", "/extendedAgentCard", "GetExtendedAgentCard"),
)


def make_routes(settings: A2aSettings) -> list[APIRouter]:
    """Makes the routers, whose routes are not in the document of the API: the protocol describes itself."""
    cards, router = make_router("a2a", is_open=settings.open_cards), make_router("a2a")
    cards.add_api_route(_CARD, _Card(settings), include_in_schema=False)
    for base in (PATH, f"{PATH}/agents/{{agent_id}}"):
        cards.add_api_route(base + _CARD, _Card(settings), include_in_schema=False)
        for path in (base, f"{base}/"):
            router.add_api_route(path, _Rpc(settings), methods=["POST"], include_in_schema=False)
        for verb, path, name in _REST:
            endpoint = _Rest(settings, name)
            router.add_api_route(base + path, endpoint, methods=[verb], include_in_schema=False)
    keys = make_router("a2a", is_open=True)
    keys.add_api_route(JWKS_PATH, _keys, include_in_schema=False)
    return [cards, router, keys]


async def _keys(request: Request) -> Response:
    """Answers with the key that cards are signed with."""
    signer = CardSigner(request.app.state.mesh.database.folder)
    headers = {"Cache-Control": "max-age=60"}
    return Response(encode(signer.keys()), headers=headers, media_type="application/json")


class _Card(Endpoint):
    """Answers with the card of the mesh, or of an agent."""

    __name__ = "agent_card"

    def __init__(self, settings: A2aSettings) -> None:
        super().__init__(_RULE)
        self._settings = settings

    async def __call__(self, request: Request) -> Response:
        if not self._settings.open_cards:
            await self.caller(request)
        directory = Directory(request.app.state.mesh, self._settings)
        agent_id = request.path_params.get("agent_id", "")
        body = encode(directory.card(absolute_url(request, ""), agent_id, is_extended=False))
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "Cache-Control": "max-age=60"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type="application/json")


class _Binding(Endpoint):
    """Runs an operation, and answers with its result, its updates or its error."""

    media_type = "application/json"

    def __init__(self, settings: A2aSettings) -> None:
        super().__init__(_RULE)  # each operation has a rule of its own beside this
        self._settings = settings

    async def run(self, request: Request, name: str, params: Any) -> Any:
        """Run an operation. Raises MeshErrors."""
        mesh = request.app.state.mesh
        service = await asyncio.to_thread(import_module, "meshwright.parts.a2a.service")
        if (method := service.METHODS.get(name)) is None:
            raise ProtocolError(METHOD_NOT_FOUND, f"There is no method {name[:100]!r}", field="method")
        address = service.A2aAddress(
            Directory(mesh, self._settings),
            request.path_params.get("agent_id", ""),
            absolute_url(request, ""),
            self._settings.wait_seconds,
            valid_trace(request.headers.get("traceparent")),
            partial(_leaving, request),
        )
        return await method(service.A2aService(Operations(mesh, request.scope[CALLER]), address), params)

    async def read_json(self, request: Request) -> Any:
        """Reads the body. Raises TooLarge, MalformedJson."""
        settings = request.app.state.mesh.settings
        body = await read_body(request, settings)
        return parse_json(body, settings.max_payload_depth + _ENVELOPE_DEPTH) if body else {}


@contextmanager
def _leaving(request: Request) -> Iterator[Collection[asyncio.Future[Any]]]:
    """As `leaving`; raises Draining where the server stops, since a wait that ends goes on otherwise."""
    with leaving(request) as ends:
        yield ends
    if open_streams(request).closing().done():
        raise stopping()


def _check_version(request: Request) -> None:
    version = request.headers.get("a2a-version") or request.query_params.get("A2A-Version") or "0.3"
    if ".".join(version.strip().split(".")[:2]) != _VERSION:
        raise ProtocolError(
            VERSION_NOT_SUPPORTED,
            f"Version {version[:20]} of A2A is not supported",
            remedy=f"Send the header A2A-Version: {_VERSION}",
            field="A2A-Version",
        )


class _Rpc(_Binding):
    """The binding JSON-RPC."""

    __name__ = "a2a_rpc"

    async def __call__(self, request: Request) -> Response:
        await self.caller(request)
        frame = _RpcFrame(None)
        try:
            document = await self.read_json(request)
            fields = document if isinstance(document, dict) else {}
            if isinstance(call_id := fields.get("id"), (str, int)) and not isinstance(call_id, bool):
                frame = _RpcFrame(call_id)
            name, params = fields.get("method"), fields.get("params", {})
            if fields.get("jsonrpc") != "2.0" or not isinstance(name, str):
                raise ProtocolError(
                    INVALID_REQUEST,
                    "The body is no request of JSON-RPC 2.0",
                    remedy='Send {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {}}',
                )
            _check_version(request)
            result = await self.run(request, name, params)
        except MeshError as error:
            answer = await answer_error(request, error)
            is_framed = error_kind(error).code not in (INVALID_REQUEST.code, PARSE_ERROR.code)
            status = 200 if is_framed and answer.status_code not in _IN_HTTP else answer.status_code
            return _respond(encode(frame.error(error)), status, answer, self.media_type)
        return _answer(request, result, frame, self.media_type)


class _Rest(_Binding):
    """The binding HTTP+JSON."""

    __name__ = "a2a_rest"
    media_type = "application/a2a+json"

    def __init__(self, settings: A2aSettings, name: str) -> None:
        super().__init__(settings)
        self._name = name

    async def __call__(self, request: Request) -> Response:
        await self.caller(request)
        frame = _Frame()
        try:
            _check_version(request)
            params: Any = dict(request.query_params)
            if request.method == "POST":
                body = await self.read_json(request)
                params = params | body if isinstance(body, dict) else body
            if isinstance(params, dict):
                params |= {name: request.path_params[name] for name in _IN_PATH & request.path_params.keys()}
            result = await self.run(request, self._name, params)
        except MeshError as error:
            answer = await answer_error(request, error)
            return _respond(encode(frame.error(error)), error_kind(error).status, answer, self.media_type)
        return _answer(request, result, frame, self.media_type)


class _Frame:
    """Documents as HTTP+JSON has them."""

    error_event = b"event: error\n"

    def result(self, document: Any) -> Any:
        """Returns a result."""
        return document

    def error(self, error: MeshError) -> Any:
        """Returns an error."""
        return http_error(error)


class _RpcFrame(_Frame):
    """Documents as JSON-RPC has them."""

    error_event = b""

    def __init__(self, call_id: str | int | None) -> None:
        self._ids = {"jsonrpc": "2.0", "id": call_id}

    def result(self, document: Any) -> Any:
        return {**self._ids, "result": document}

    def error(self, error: MeshError) -> Any:
        return {**self._ids, "error": rpc_error(error)}


def _respond(body: bytes, status: int, answer: Response, media_type: str) -> Response:
    headers = {
        name: answer.headers[name] for name in ("Retry-After", "WWW-Authenticate") if name in answer.headers
    }
    return Response(body, status, headers, media_type)


def _answer(request: Request, result: Any, frame: _Frame, media_type: str) -> Response:
    if not isinstance(result, AsyncGenerator):
        return Response(encode(frame.result(result)), media_type=media_type)
    return _StreamResponse(_encode(result, open_streams(request).closing(), frame), frame)


class _StreamResponse(ServerSentEvents):
    def __init__(self, frames: AsyncGenerator[bytes], frame: _Frame) -> None:
        super().__init__(frames)
        self._frame = frame

    def last_frame(self, scope: Scope, problem: MeshError) -> bytes:
        """Returns the error of a stream whose credentials have ended."""
        return _error_event(self._frame, problem)


def _error_event(frame: _Frame, error: MeshError) -> bytes:
    return b"%bdata: %b\n\n" % (frame.error_event, encode(frame.error(error)))


async def _encode(
    updates: AsyncGenerator[Any], closing: asyncio.Future[None], frame: _Frame
) -> AsyncGenerator[bytes]:
    """Updates as server-sent events, with a comment while nothing comes, until the server stops."""
    try:
        async with aclosing(with_pauses(updates, closing, stopping)) as paused:
            async for update in paused:
                yield KEEPALIVE_COMMENT if update is None else b"data: %b\n\n" % encode(frame.result(update))
    except MeshError as error:
        yield _error_event(frame, error)

"""Errors of the API: a problem document, or what OpenAI's API answers; and refusals that are held back."""

from __future__ import annotations

import time
from asyncio import sleep
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from meshwright.core.encoding import encode
from meshwright.core.errors import MeshError, Overloaded, StorageExceeded, Unauthenticated
from meshwright.core.http_limits import max_connections
from meshwright.core.messages import Caller
from meshwright.edges.bodies import PAYLOAD, PROBLEM_TYPE, BodyLimit, InvalidFields, Problem, describe_problem
from meshwright.edges.http.settings import HttpSettings
from meshwright.mesh.identity.operations import record_refusal
from meshwright.mesh.mesh import Mesh
from meshwright.models.wire.errors import (
    UnknownRoute,
    WrongMethod,
    anthropic_answer,
    base_headers,
    openai_answer,
)

CALLER, KIND = "meshwright.caller", "meshwright.kind"
"""The keys of a request's caller and of its router's kind in its scope."""
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
_GONE = 499  # for a client that is not there any more
_MAX_PATH_CHARS = 200  # of a request that was refused
_PATIENCE = 10  # refusals in a second that are answered at once
_SPREAD = 16  # held answers are not let go at the same time
_MAX_TENANTS = 10_000

ErrorShape = Literal["problem", "openai", "anthropic"]


class RouterKind(NamedTuple):
    """How the routes of a router treat requests; `make_router` documents the fields."""

    errors: ErrorShape = "problem"
    max_body: BodyLimit = PAYLOAD
    is_open: bool = False
    counts_streams: bool = True
    names_tenant: bool = False
    resource_metadata: str = ""


def router_kind(scope: Scope) -> RouterKind:
    """Returns the kind of the router that a request goes to; the usual one where there is none."""
    return scope.get(KIND) or RouterKind()


def error_shape(scope: Scope) -> ErrorShape:
    """Returns the shape of the errors that a client knows; some routes are in the APIs of two providers."""
    shape = router_kind(scope).errors
    return "anthropic" if shape == "openai" and asks_as_anthropic(scope) else shape


def asks_as_anthropic(scope: Scope) -> bool:
    """Whether a request comes from a client of Anthropic's API."""
    return any(name == b"anthropic-version" for name, _ in scope["headers"])


class JsonLine(JSONResponse):
    """A document as JSON, with the end of line that a shell wants."""

    def render(self, content: Any) -> bytes:
        """Returns the document as it goes over the wire."""
        text = content.model_dump_json().encode() if isinstance(content, BaseModel) else encode(content)
        return b"%b\n" % text


def handle_errors(app: FastAPI) -> None:
    """Makes an application answer every error."""
    for kind in (MeshError, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, answer_error)


async def answer_error(request: Request, error: Exception) -> Response:
    """Answers with any error."""
    if isinstance(error, RequestValidationError):
        error = InvalidFields.from_problems(error.errors())
    if isinstance(error, MeshError):
        if CALLER in request.scope:
            record_misuse(request.app.state.mesh, request.scope, error)
        if _is_tenants_limit(error) and (caller := request.scope.get(CALLER)) is not None:
            await request.app.state.brake.hold(caller)
        response = error_response(error, error_shape(request.scope))
        if isinstance(error, Unauthenticated) and (path := router_kind(request.scope).resource_metadata):
            challenge = f'Bearer resource_metadata="{absolute_url(request, path)}"'
            response.headers["WWW-Authenticate"] = challenge
        return response
    if isinstance(error, HTTPException):
        return _framework_error(request, error)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=_GONE)  # the client has left
    # The server logs the traceback; the client learns nothing of it, since it may hold a task's content.
    return _response(
        Problem(
            title=HTTPStatus.INTERNAL_SERVER_ERROR.phrase,
            status=HTTPStatus.INTERNAL_SERVER_ERROR,
            detail=f"An unexpected {type(error).__name__} in {request.method} {request.url.path}",
            code="InternalError",
            remedy="The log of the mesh says more",
        )
    )


def absolute_url(request: Request, path: str) -> str:
    """Returns the address of a path as the client of a request reaches it."""
    is_tls = request.url.scheme == "https" or request.app.state.mesh.settings[HttpSettings].behind_tls
    return f"{'https' if is_tls else 'http'}://{request.url.netloc}{path}"


def record_misuse(mesh: Mesh, scope: Scope, error: MeshError) -> None:
    """Records a refusal in the audit trail, with the request that it refuses."""
    caller: Caller | None = scope.get(CALLER)
    path = scope["path"][:_MAX_PATH_CHARS]
    if caller is None:  # its tenant is unknown, so its record names nothing of any
        path = "/".join(path.split("/")[:2])
    request, address = f"{scope.get('method', 'GET')} {path}", (scope.get("client") or ("",))[0]
    record_refusal(mesh, error, caller=caller, request=request, address=address)


def _is_tenants_limit(error: MeshError) -> bool:
    return isinstance(error, (Overloaded, StorageExceeded)) and error.field == "tenant_id"


def error_response(error: MeshError, shape: ErrorShape = "problem") -> Response:
    """Answers with an error that was raised on purpose, in the shape that the clients of a router know."""
    if shape == "problem":
        return _response(describe_problem(error), base_headers(error))
    answer = anthropic_answer if shape == "anthropic" else openai_answer
    status, headers, document = answer(error)
    return JsonLine(document, status, headers)


def _response(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    body = problem.model_dump_json(exclude_none=True)
    return Response(f"{body}\n", problem.status, headers, media_type=PROBLEM_TYPE)


def _framework_error(request: Request, error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    remedy = "GET /docs shows what there is"
    if "Allow" in headers:  # of one route alone
        headers["Allow"] = ", ".join(
            method
            for method in _METHODS
            for route in request.app.routes
            if route.matches({**request.scope, "method": method})[0] is Match.FULL
        )
        remedy = f"Use {headers['Allow']}"
    detail = f"{request.method} {request.url.path}: {str(error.detail).lower()}"
    if _is_of_wire(request, headers):
        kind = WrongMethod if "Allow" in headers else UnknownRoute
        shape: ErrorShape = "anthropic" if asks_as_anthropic(request.scope) else "openai"
        response = error_response(kind(detail, remedy=remedy), shape)
        response.headers.update(headers)
        return response
    problem = Problem(
        title=status.phrase,
        status=status,
        detail=detail,
        code="".join(word.title() for word in status.phrase.split()),
        remedy=remedy,
    )
    return _response(problem, headers)


def _is_of_wire(request: Request, headers: Mapping[str, str]) -> bool:
    """Whether a request without a route is for the API of a provider."""
    if "Allow" in headers:
        return router_kind(request.scope).errors != "problem"
    return request.url.path.startswith("/v1/")


class AnthropicErrorBody(BaseModel):
    """An error as Anthropic's API answers it."""

    type: Literal["error"]
    error: dict[str, Any]
    request_id: str


class OpenAIErrorBody(BaseModel):
    """An error as OpenAI's API answers it."""

    error: dict[str, str | None]


# Floods


class Brake:
    """Counts the refusals of each tenant in the current second, and holds back those over ten.

    They wait for one to three seconds, and a client with them, on each of its connections. At most half of
    the server's connections wait; what is refused beyond them is answered at once.
    """

    def __init__(self) -> None:
        self._second = 0
        self._refused: dict[str, int] = {}
        self._held = 0

    async def hold(self, caller: Caller) -> None:
        """Wait where a caller floods. A caller of all tenants never waits: others send through it too."""
        if caller.all_tenants or caller.is_proxy:
            return
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._refused.clear()
        count = self._refused.get(caller.tenant_id, 0) + 1
        if len(self._refused) < _MAX_TENANTS:
            self._refused[caller.tenant_id] = count
        if count <= _PATIENCE or self._held >= max_connections() // 2:
            return
        self._held += 1
        try:
            await sleep(1 + 2 * (self._held % _SPREAD) / _SPREAD)
        finally:
            self._held -= 1

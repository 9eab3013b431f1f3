"""Answers every error: with a problem document, or below /v1 as OpenAI's API does."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from meshwright.edges.bodies import PROBLEM_TYPE, InvalidFields, Problem, problem_of
from meshwright.edges.http.routing import JsonLine
from meshwright.errors import HostError, InvalidInput, MeshError, ModelError, NotFound, TooLarge
from meshwright.ledger.keys import Forbidden, Unauthenticated
from meshwright.models.port import (
    BudgetExceeded,
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    Unauthorized,
)

ALL_DOWN = "All providers unavailable"
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
_GONE = 499  # for a client that is not there any more
_RETRY_AFTER_SECONDS = 1  # what a busy or a stopping host asks for


def handle_errors(app: FastAPI) -> None:
    """Makes an application answer every error."""
    for kind in (MeshError, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, answer_error)


async def answer_error(request: Request, error: Exception) -> Response:
    """Answers with any error."""
    if isinstance(error, RequestValidationError):
        error = InvalidFields.of(error.errors())
    if isinstance(error, MeshError):
        return error_response(request.url.path, error)
    if isinstance(error, HTTPException):
        return _framework_error(request, error)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=_GONE)  # nobody reads it
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


def error_response(path: str, error: MeshError) -> Response:
    """Answers with an error that was raised on purpose, in the shape that clients of a path know."""
    wait_seconds = getattr(error, "retry_after_seconds", None)
    if wait_seconds is None and isinstance(error, HostError):
        wait_seconds = _RETRY_AFTER_SECONDS
    headers = {} if wait_seconds is None else {"Retry-After": str(max(1, round(wait_seconds)))}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if not path.startswith("/v1/"):
        return _response(problem_of(error), headers)
    if isinstance(error, BudgetExceeded) or (isinstance(error, ModelError) and wait_seconds is None):
        headers["x-should-retry"] = "false"  # a client is not to repeat by itself what was tried here
    return JsonLine(openai_error(error), _refusal_of(error).status, headers)


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
    problem = Problem(
        title=status.phrase,
        status=status,
        detail=f"{request.method} {request.url.path}: {str(error.detail).lower()}",
        code="".join(word.title() for word in status.phrase.split()),
        remedy=remedy,
    )
    return _response(problem, headers)


# OpenAI's shape


class _Refusal(NamedTuple):
    """How OpenAI's API answers an error; without a code it is the error's own name."""

    status: int
    type: str
    code: str | None = None


_REFUSALS: tuple[tuple[type[MeshError], _Refusal], ...] = (
    (Unauthenticated, _Refusal(401, "authentication_error", "invalid_api_key")),
    (Forbidden, _Refusal(403, "permission_error", "forbidden")),
    (NotFound, _Refusal(404, "invalid_request_error", "model_not_found")),
    (TooLarge, _Refusal(413, "invalid_request_error", "request_too_large")),
    (InvalidInput, _Refusal(400, "invalid_request_error")),
    (BudgetExceeded, _Refusal(429, "insufficient_quota", "insufficient_quota")),
    (RateLimited, _Refusal(429, "requests", "rate_limit_exceeded")),
    (ContextTooLong, _Refusal(400, "invalid_request_error", "context_length_exceeded")),
    (ContentRefused, _Refusal(400, "invalid_request_error", "content_filter")),
    (ModelRefused, _Refusal(400, "invalid_request_error")),
    (ModelTimeout, _Refusal(504, "server_error", "timeout")),
    (ModelUnavailable, _Refusal(503, "server_error", "providers_unavailable")),
    (Unauthorized, _Refusal(502, "server_error", "provider_unauthorized")),
    (ModelError, _Refusal(502, "server_error")),
    (HostError, _Refusal(503, "server_error")),
    (MeshError, _Refusal(500, "server_error")),
)
"""The first that fits counts."""


def openai_error(error: MeshError) -> dict[str, Any]:
    """Returns an error's document in OpenAI's shape. It also ends a stream that began well."""
    refusal = _refusal_of(error)
    # Of providers that are down no more is said, since who they are is ours.
    message = ALL_DOWN if isinstance(error, ModelUnavailable) else str(error)
    known = {"type": refusal.type, "param": error.field or None, "code": refusal.code or error.code}
    return {"error": {"message": message, **known}}


def _refusal_of(error: MeshError) -> _Refusal:
    return next(refusal for kind, refusal in _REFUSALS if isinstance(error, kind))

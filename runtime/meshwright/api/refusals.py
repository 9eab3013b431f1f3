"""What OpenAI's clients are told when a call cannot be answered: its shape, its statuses, its codes."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import Response

from meshwright.api.wire import answer
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
WAIT_SECONDS = 1  # what a busy or a stopping host asks for


class Refusal(NamedTuple):
    """How an error is told: `code` None is the error's own name."""

    status: int
    type: str
    code: str | None = None


REFUSALS: tuple[tuple[type[MeshError], Refusal], ...] = (
    (Unauthenticated, Refusal(401, "authentication_error", "invalid_api_key")),
    (Forbidden, Refusal(403, "permission_error", "forbidden")),
    (NotFound, Refusal(404, "invalid_request_error", "model_not_found")),
    (TooLarge, Refusal(413, "invalid_request_error", "request_too_large")),
    (InvalidInput, Refusal(400, "invalid_request_error")),
    (BudgetExceeded, Refusal(429, "insufficient_quota", "insufficient_quota")),
    (RateLimited, Refusal(429, "requests", "rate_limit_exceeded")),
    (ContextTooLong, Refusal(400, "invalid_request_error", "context_length_exceeded")),
    (ContentRefused, Refusal(400, "invalid_request_error", "content_filter")),
    (ModelRefused, Refusal(400, "invalid_request_error")),
    (ModelTimeout, Refusal(504, "server_error", "timeout")),
    (ModelUnavailable, Refusal(503, "server_error", "providers_unavailable")),
    (Unauthorized, Refusal(502, "server_error", "provider_unauthorized")),
    (ModelError, Refusal(502, "server_error")),
    (HostError, Refusal(503, "server_error")),
    (MeshError, Refusal(500, "server_error")),
)
"""The first that fits counts."""


def refused(error: MeshError) -> Response:
    """An error as OpenAI's API would answer it."""
    return answer(error_body(error), refusal_of(error).status, headers_of(error))


def refusal_of(error: MeshError) -> Refusal:
    """How an error is told."""
    return next(refusal for kind, refusal in REFUSALS if isinstance(error, kind))


def error_body(error: MeshError) -> dict[str, Any]:
    """The document of an error, which also ends a stream that began well."""
    refusal = refusal_of(error)
    told = {"type": refusal.type, "param": error.field or None, "code": refusal.code or error.code}
    return {"error": {"message": message_of(error), **told}}


def message_of(error: MeshError) -> str:
    """What is said: of providers that are down no more than that, since who they are is ours."""
    return ALL_DOWN if isinstance(error, ModelUnavailable) else str(error)


def headers_of(error: MeshError) -> dict[str, str]:
    """When to come again; and that a client is not to repeat by itself what was tried here already."""
    headers: dict[str, str] = {}
    wait_seconds = getattr(error, "retry_after_seconds", None)
    if isinstance(error, HostError):
        wait_seconds = WAIT_SECONDS
    if wait_seconds is not None:
        headers["Retry-After"] = str(max(1, round(wait_seconds)))
    if isinstance(error, BudgetExceeded) or (isinstance(error, ModelError) and not headers):
        headers["x-should-retry"] = "false"
    return headers

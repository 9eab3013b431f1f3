"""Errors of calls of models, as the SDKs of providers know them."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import ValidationError

from meshwright.core.errors import (
    Forbidden,
    HostError,
    InvalidInput,
    MeshError,
    ModelError,
    NotFound,
    Overloaded,
    StorageExceeded,
    TooLarge,
    Unauthenticated,
    field_faults,
)
from meshwright.core.ids import new_id
from meshwright.models.errors import (
    BudgetExceeded,
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    Unauthorized,
)

OPENAI_REQUEST_ID, ANTHROPIC_REQUEST_ID = "x-request-id", "request-id"
"""The headers by which the SDKs name a request."""
ALL_DOWN = "All providers unavailable"
_RETRY_AFTER_SECONDS = 1  # what a busy or a stopping runtime asks for


class UnsupportedParameter(InvalidInput):
    """The mesh's models have no such parameter."""

    status = 400


class ThreadUnsupported(UnsupportedParameter):
    """Threads of Anthropic's API are not stored here; its client goes on without, by these words."""


class UnknownRoute(NotFound):
    """The wire has no such path."""


class UnknownConversation(NotFound):
    """There is no such conversation, or no such message in it."""


class UnknownResponse(NotFound):
    """There is no such stored response."""


class UnknownPreviousResponse(UnknownResponse):
    """A response goes on from one that is not there."""


class WrongMethod(MeshError):
    """The path takes another method."""

    status = 405


class _Refusal(NamedTuple):
    """How OpenAI's API answers an error; without a code it is the error's own name."""

    status: int
    type: str
    code: str | None = None


_REFUSALS: tuple[tuple[type[MeshError], _Refusal], ...] = (
    (Unauthenticated, _Refusal(401, "authentication_error", "invalid_api_key")),
    (Forbidden, _Refusal(403, "permission_error", "forbidden")),
    (UnknownRoute, _Refusal(404, "invalid_request_error", "unknown_url")),
    (UnknownPreviousResponse, _Refusal(400, "invalid_request_error", "previous_response_not_found")),
    (UnknownResponse, _Refusal(404, "invalid_request_error", "response_not_found")),
    (UnknownConversation, _Refusal(404, "invalid_request_error", "conversation_not_found")),
    (NotFound, _Refusal(404, "invalid_request_error", "model_not_found")),
    (WrongMethod, _Refusal(405, "invalid_request_error", "method_not_supported")),
    (TooLarge, _Refusal(413, "invalid_request_error", "request_too_large")),
    (InvalidInput, _Refusal(400, "invalid_request_error")),
    (BudgetExceeded, _Refusal(429, "insufficient_quota", "insufficient_quota")),
    (Overloaded, _Refusal(429, "requests", "rate_limit_exceeded")),
    (StorageExceeded, _Refusal(429, "insufficient_quota", "insufficient_quota")),
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


def new_request_id() -> str:
    """Returns the id of a request for the header of its answer."""
    return f"req_{new_id()}"


def openai_answer(error: MeshError) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Returns status, headers and document of an error as OpenAI's API answers it."""
    headers = {**refusal_headers(error), OPENAI_REQUEST_ID: new_request_id()}
    return _find_refusal(error).status, headers, openai_error(error)


def openai_error(error: MeshError) -> dict[str, Any]:
    """Returns an error's document in OpenAI's shape. It also ends a stream that began well."""
    refusal = _find_refusal(error)
    message = client_message(error)
    if isinstance(error, ContextTooLong):  # words that clients look for
        message = f"This model's maximum context length is exceeded. {message}"
    fields = {"type": refusal.type, "param": error.field or None, "code": refusal.code or error.code}
    return {"error": {"message": message, **fields}}


def client_message(error: MeshError) -> str:
    """Returns the text of an error for clients: of providers that are down it names none."""
    return ALL_DOWN if isinstance(error, ModelUnavailable) else str(error)


def refusal_headers(error: MeshError) -> dict[str, str]:
    """Returns the headers of an error: when to try again, and whether a client may by itself.

    A client waits where the mesh did not: for a pause that is longer than a call of the mesh waits.
    """
    headers = base_headers(error)
    is_final = isinstance(error, ModelError) and (
        error.is_retried or not error.retryable or "Retry-After" not in headers
    )
    if is_final or isinstance(error, (BudgetExceeded, StorageExceeded)):
        headers["x-should-retry"] = "false"  # a client is not to repeat by itself what was tried here
    return headers


def base_headers(error: MeshError) -> dict[str, str]:
    """Returns the headers of an error in any shape: when to try again, and how to authenticate."""
    wait_seconds = getattr(error, "retry_after_seconds", None)
    if wait_seconds is None and isinstance(error, HostError):
        wait_seconds = _RETRY_AFTER_SECONDS
    headers = retry_after(wait_seconds)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def retry_after(wait_seconds: float | None) -> dict[str, str]:
    """The header that says when to try again, where that is known."""
    return {} if wait_seconds is None else {"Retry-After": str(max(1, round(wait_seconds)))}


def invalid_body(error: ValidationError) -> InvalidInput:
    """Returns the error for the first wrong field of a body, without what was sent."""
    field, fault = field_faults(error.errors(include_url=False, include_input=False))[0]
    return InvalidInput(f"{field}: {fault}", field=field)


def _find_refusal(error: MeshError) -> _Refusal:
    return next(refusal for kind, refusal in _REFUSALS if isinstance(error, kind))


# Anthropic's errors

_ANTHROPIC: tuple[tuple[type[MeshError], tuple[int, str]], ...] = (
    (Unauthenticated, (401, "authentication_error")),
    (Forbidden, (403, "permission_error")),
    (NotFound, (404, "not_found_error")),
    (WrongMethod, (405, "invalid_request_error")),
    (TooLarge, (413, "request_too_large")),
    (InvalidInput, (400, "invalid_request_error")),
    (BudgetExceeded, (402, "billing_error")),
    (StorageExceeded, (402, "billing_error")),
    (Overloaded, (429, "rate_limit_error")),
    (RateLimited, (429, "rate_limit_error")),
    (ModelRefused, (400, "invalid_request_error")),
    (ModelTimeout, (504, "timeout_error")),
    (ModelUnavailable, (529, "overloaded_error")),
    (ModelError, (502, "api_error")),
    (HostError, (503, "api_error")),
    (MeshError, (500, "api_error")),
)
"""Status and type of each kind of error; the first that fits counts."""


def anthropic_answer(error: MeshError) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Returns status, headers and document of an error as Anthropic's API answers it."""
    document = anthropic_error(error)
    headers = {**refusal_headers(error), ANTHROPIC_REQUEST_ID: document["request_id"]}
    return _anthropic_refusal(error)[0], headers, document


def anthropic_error(error: MeshError) -> dict[str, Any]:
    """Returns an error's document in Anthropic's shape. It also ends a stream that began well."""
    message = client_message(error)
    if isinstance(error, ContextTooLong):  # words at which Claude Code compacts its conversation
        message = f"prompt is too long: {message}"
    details: dict[str, Any] = {"error_code": error.code, "field": error.field or None}
    if isinstance(error, ThreadUnsupported):
        details |= {"error_code": "thread_unsupported_request", "unsupported": list[str]()}
    fields = {"type": _anthropic_refusal(error)[1], "message": message, "details": details}
    return {"type": "error", "error": fields, "request_id": new_request_id()}


def _anthropic_refusal(error: MeshError) -> tuple[int, str]:
    return next(refusal for kind, refusal in _ANTHROPIC if isinstance(error, kind))

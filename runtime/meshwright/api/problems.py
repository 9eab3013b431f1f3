"""Every error as a problem document (RFC 9457) that names the field that was wrong and what to do."""

from __future__ import annotations

from difflib import get_close_matches
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from meshwright.errors import HostError, InvalidInput, MeshError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:meshwright:problem:"
RETRY_AFTER_SECONDS = 1  # what a busy or a stopping host asks for
SOURCES = frozenset({"body", "query", "path", "header"})  # where FastAPI says that a field was found


class MalformedJson(InvalidInput):
    """A body that is not JSON."""

    status = 400


class BadHeader(InvalidInput):
    """A header that cannot be read."""

    status = 400


class Misdirected(InvalidInput):
    """A request under a host name that is not ours: a page may have made a browser send it."""

    status = 421


class ForeignOrigin(InvalidInput):
    """A request that a page of another site made a browser send."""

    status = 403


class FieldError(BaseModel):
    """One wrong field, as a dotted path, and what is wrong with it."""

    field: str
    message: str


class Problem(BaseModel):
    """What went wrong, as RFC 9457 has it, with what Meshwright adds.

    `code` is the error's stable name, `field` the first field that was wrong, `remedy` what to do, and
    `errors` every wrong field where there may be several. `retry_after_seconds` is as in `Retry-After`.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    remedy: str | None = None
    errors: list[FieldError] | None = None
    retry_after_seconds: float | None = None

    def response(self, headers: dict[str, str] | None = None) -> Response:
        """The problem as an HTTP response."""
        body = self.model_dump_json(exclude_none=True)
        return Response(f"{body}\n", self.status, headers, media_type=MEDIA_TYPE)


class InvalidFields(InvalidInput):
    """A request whose fields are wrong; `errors` names each."""

    def __init__(self, errors: list[FieldError], *, remedy: str = "") -> None:
        first = errors[0]
        super().__init__(f"{first.field}: {first.message}", remedy=remedy, field=first.field)
        self.errors = errors

    @property
    def code(self) -> str:
        """On the wire it is one kind with InvalidInput."""
        return InvalidInput.__name__

    @classmethod
    def of(
        cls, error: ValidationError | RequestValidationError, model: type[BaseModel] | None = None
    ) -> InvalidFields:
        """Say what validation found, without repeating what was sent."""
        found = list(error.errors())
        errors = [FieldError(field=_path(each["loc"]), message=_message(each["msg"])) for each in found]
        unknown = str(found[0]["loc"][-1]) if found[0]["type"] == "extra_forbidden" else ""
        return cls(errors, remedy=_nearest(unknown, model) if unknown and model else "")


def _path(location: tuple[int | str, ...]) -> str:
    parts = location[1:] if location and location[0] in SOURCES else location
    return ".".join(map(str, parts)) or "body"


def _message(text: str) -> str:
    return (
        "there is no such field"
        if text == "Extra inputs are not permitted"
        else text.removeprefix("Value error, ")
    )


def _nearest(name: str, model: type[BaseModel]) -> str:
    near = get_close_matches(name, model.model_fields, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(model.model_fields)}"


def problem_of(error: MeshError) -> Problem:
    """Describe an error that was raised on purpose."""
    return Problem(
        type=TYPE_PREFIX + error.code,
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.message,
        code=error.code,
        field=error.field or None,
        remedy=error.remedy or None,
        errors=getattr(error, "errors", None),
        retry_after_seconds=getattr(error, "retry_after_seconds", None),
    )


def handle_problems(app: FastAPI) -> None:
    """Answer every error of an application with a problem document."""
    app.add_exception_handler(MeshError, _mesh_error)
    app.add_exception_handler(RequestValidationError, _wrong_parameters)
    app.add_exception_handler(HTTPException, _framework_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


def problem_response(error: MeshError) -> Response:
    """Answer with an error that was raised on purpose."""
    return problem_of(error).response(_headers(error))


async def _mesh_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MeshError)
    return problem_response(error)


def _headers(error: MeshError) -> dict[str, str] | None:
    if error.status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    wait_seconds = getattr(error, "retry_after_seconds", None)
    if wait_seconds is None and isinstance(error, HostError):
        wait_seconds = RETRY_AFTER_SECONDS
    return None if wait_seconds is None else {"Retry-After": str(round(wait_seconds))}


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=HTTPStatus.REQUEST_TIMEOUT)  # nobody reads it


async def _wrong_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_of(InvalidFields.of(error)).response()


async def _framework_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    remedy = "GET /docs shows what there is"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
        remedy = f"use {headers['Allow']}"
    return Problem(
        title=status.phrase,
        status=status,
        detail=f"{request.method} {request.url.path}: {str(error.detail).lower()}",
        code="".join(word.title() for word in status.phrase.split()),
        remedy=remedy,
    ).response(headers)


def _allowed(request: Request) -> list[str]:
    """The methods of every route of the path: the framework names those of the first alone."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in getattr(route, "methods", None) or ()})


async def _unexpected(request: Request, error: Exception) -> Response:
    # The server logs the traceback; the client learns nothing of it, since it may hold a task's content.
    return Problem(
        title=HTTPStatus.INTERNAL_SERVER_ERROR.phrase,
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        detail=f"an unexpected {type(error).__name__} in {request.method} {request.url.path}",
        code="InternalError",
        remedy="the log of the mesh says more",
    ).response()

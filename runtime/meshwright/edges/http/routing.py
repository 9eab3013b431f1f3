"""What routes share: who asks which mesh, bodies within limits, answers, errors, documentation."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from importlib.resources import files
from typing import Annotated, Any, NamedTuple, get_type_hints

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from meshwright.core.access import Role
from meshwright.core.encoding import encode
from meshwright.core.errors import (
    Draining,
    Forbidden,
    HostError,
    InvalidInput,
    MeshError,
    ModelError,
    NotFound,
    Overloaded,
    StorageExceeded,
    TooLarge,
)
from meshwright.core.messages import Caller
from meshwright.core.tracing import parse
from meshwright.edges.bodies import PROBLEM_TYPE, InvalidFields, Problem, check_size, problem_of, read_json
from meshwright.identity.operations import Acting, Operations, record_refusal
from meshwright.identity.rules import RULES, Rule
from meshwright.ledger.keys import Unauthenticated
from meshwright.mesh import Mesh
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
from meshwright.settings import Settings

ALL_DOWN = "All providers unavailable"
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
_GONE = 499  # for a client that is not there any more
_MAX_PATH_CHARS = 200  # of a request that was refused
_RETRY_AFTER_SECONDS = 1  # what a busy or a stopping host asks for
CALLER = "meshwright.caller"
"""Where a request's scope has its caller."""
_JSON = (b"content-type", b"application/json")
EVENT_STREAM = "text/event-stream"
"""The content type of server-sent events."""


async def _mesh_of(request: Request) -> Mesh:
    return request.app.state.mesh


async def _caller_of(request: Request) -> Caller:
    return request.scope[CALLER]


async def _ready_mesh(request: Request) -> Mesh:
    """Returns the mesh that is asked. Raises Draining while it takes no work."""
    mesh = await _mesh_of(request)
    if not mesh.ready:
        raise Draining("The mesh is starting or stopping", remedy="Ask again in a moment")
    return mesh


MeshDep = Annotated[Mesh, Depends(_mesh_of)]
ReadyMesh = Annotated[Mesh, Depends(_ready_mesh)]
CallerDep = Annotated[Caller, Depends(_caller_of)]
"""Who calls, for a dependency of a route whose role another parameter states."""


class Needs:
    """The rule that a route goes by: a caller that it refuses is refused before a body is read."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    async def check_early(self, request: Request) -> None:
        """Raises Unauthenticated, Forbidden, and Overloaded where the tenant has used up its minute."""
        await self.caller(request)

    async def caller(self, request: Request) -> Caller:
        """Returns the caller of a request. Raises Unauthenticated, Forbidden."""
        caller: Caller = request.scope[CALLER]
        self.rule.check(caller, _asked(request))
        return caller


class _Operation(Needs):
    """The rule of one of the mesh's operations."""

    def __init__(self, name: str, kind: type[Acting]) -> None:
        super().__init__(RULES[name])
        self._name = name
        self._kind = kind

    async def check_early(self, request: Request) -> None:
        acting = self._kind(request.app.state.mesh, request.scope[CALLER])
        await acting.check_early(self._name, _asked(request))

    async def acting(self, request: Request) -> Acting:
        """Returns the operations of a request's caller."""
        return self._kind(await _mesh_of(request), await self.caller(request))


def _asked(request: Request) -> str:
    return f"may {request.method} {request.url.path}"


def may(operation: str, kind: type[Acting] = Operations) -> Any:
    """The dependency of a route that calls an operation: `Annotated[Operations, may("cancel")]`."""
    return Depends(_Operation(operation, kind).acting)


def by_rule(rule: Rule) -> Any:
    """The dependency of a route that calls a component: `caller: Annotated[Caller, by_rule(SEE)]`."""
    return Depends(Needs(rule).caller)


def needs(*roles: Role) -> Any:
    """The dependency of a route that one of some roles may use: `Annotated[Caller, needs(Role.OPERATOR)]`."""
    return by_rule(Rule("", roles))


def needs_of(endpoint: Callable[..., Any]) -> Needs | None:
    """What an endpoint asks of its caller, as its signature says."""
    hints = get_type_hints(endpoint, include_extras=True).values()
    dependencies = (
        getattr(part, "dependency", None) for hint in hints for part in getattr(hint, "__metadata__", ())
    )
    owners = (getattr(dependency, "__self__", None) for dependency in dependencies)
    return next((owner for owner in owners if isinstance(owner, Needs)), None)


ViewerDep = Annotated[Caller, needs(Role.VIEWER)]
ContentsDep = Annotated[Caller, needs(Role.CONTENTS)]
SubmitterDep = Annotated[Caller, needs(Role.SUBMITTER)]
OperatorDep = Annotated[Caller, needs(Role.OPERATOR)]


def valid_trace(traceparent: str | None) -> str | None:
    """Returns a W3C traceparent; a malformed one counts as none."""
    return traceparent if traceparent and parse(traceparent) else None


class JsonLine(JSONResponse):
    """A document as JSON, with the end of line that a shell wants."""

    def render(self, content: Any) -> bytes:
        """Returns the document as it goes over the wire."""
        text = content.model_dump_json().encode() if isinstance(content, BaseModel) else encode(content)
        return b"%b\n" % text


class _JsonRoute(APIRoute):
    """A route whose body is JSON within the limits of the mesh, whatever content type it claims to be.

    Its description ends with the roles that it takes.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        needed = needs_of(endpoint)
        if needed is not None and not self.description.endswith(roles := str(needed.rule)):
            self.description = f"{self.description}\n\n{roles}"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        model: Any = self.body_field.field_info.annotation
        calls_model = self.path.startswith("/v1/")
        needed = needs_of(self.endpoint)

        async def read_and_handle(request: Request) -> Response:
            if needed is not None:  # before anything of the body is read
                await needed.check_early(request)
            settings = (await _mesh_of(request)).settings
            body = await read_body(request, settings, of_model_call=calls_model)
            document = read_json(body, settings, of_model_call=calls_model)
            try:
                return await handle(_ReadRequest(request, document))
            except RequestValidationError as error:
                raise InvalidFields.of(error.errors(), model) from None

        return read_and_handle


class _ReadRequest(Request):
    """A request whose body has been read."""

    def __init__(self, request: Request, document: Any) -> None:
        headers = [header for header in request.scope["headers"] if header[0] != _JSON[0]]
        super().__init__({**request.scope, "headers": [*headers, _JSON]}, request.receive)
        self._document = document

    async def body(self) -> bytes:
        return b"null"  # there is one; `json` has it

    async def json(self) -> Any:
        return self._document


async def read_body(request: Request, settings: Settings, *, of_model_call: bool = False) -> bytes:
    """Reads no more of a body than its limit. Raises TooLarge."""
    announced = request.headers.get("content-length", "")
    check_size(int(announced) if announced.isdecimal() else 0, settings, of_model_call=of_model_call)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        check_size(size, settings, of_model_call=of_model_call)
        chunks.append(chunk)
    return b"".join(chunks)


# Errors: a problem document, or below /v1 what OpenAI's API answers


def handle_errors(app: FastAPI) -> None:
    """Makes an application answer every error."""
    for kind in (MeshError, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, answer_error)


async def answer_error(request: Request, error: Exception) -> Response:
    """Answers with any error."""
    if isinstance(error, RequestValidationError):
        error = InvalidFields.of(error.errors())
    if isinstance(error, MeshError):
        if CALLER in request.scope:
            record_misuse(request.app.state.mesh, request.scope, error)
        if _is_tenants_limit(error) and (caller := request.scope.get(CALLER)) is not None:
            await request.app.state.brake.hold(caller)
        return error_response(request.scope["path"], error)
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


def record_misuse(mesh: Mesh, scope: Scope, error: MeshError) -> None:
    """Have a refusal in the audit trail with the request that it refuses."""
    caller: Caller | None = scope.get(CALLER)
    path = scope["path"][:_MAX_PATH_CHARS]
    if caller is None:  # its tenant is unknown, so its record names nothing of any
        path = "/".join(path.split("/")[:2])
    request, address = f"{scope.get('method', 'GET')} {path}", (scope.get("client") or ("",))[0]
    record_refusal(mesh, error, caller=caller, request=request, address=address)


def retry_after(wait_seconds: float | None) -> dict[str, str]:
    """The header that says when to try again, where that is known."""
    return {} if wait_seconds is None else {"Retry-After": str(max(1, round(wait_seconds)))}


def _is_tenants_limit(error: MeshError) -> bool:
    return isinstance(error, (Overloaded, StorageExceeded)) and error.field == "tenant_id"


def error_response(path: str, error: MeshError) -> Response:
    """Answers with an error that was raised on purpose, in the shape that clients of a path know."""
    wait_seconds = getattr(error, "retry_after_seconds", None)
    if wait_seconds is None and isinstance(error, HostError):
        wait_seconds = _RETRY_AFTER_SECONDS
    headers = retry_after(wait_seconds)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if not path.startswith("/v1/"):
        return _response(problem_of(error), headers)
    if isinstance(error, (BudgetExceeded, StorageExceeded)) or (
        isinstance(error, ModelError) and wait_seconds is None
    ):
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


# Errors below /v1, in OpenAI's shape


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


def openai_error(error: MeshError) -> dict[str, Any]:
    """Returns an error's document in OpenAI's shape. It also ends a stream that began well."""
    refusal = _refusal_of(error)
    # Of providers that are down no more is said, since who they are is ours.
    message = ALL_DOWN if isinstance(error, ModelUnavailable) else str(error)
    if isinstance(error, ContextTooLong):  # words that clients look for
        message = f"This model's maximum context length is exceeded. {message}"
    known = {"type": refusal.type, "param": error.field or None, "code": refusal.code or error.code}
    return {"error": {"message": message, **known}}


def _refusal_of(error: MeshError) -> _Refusal:
    return next(refusal for kind, refusal in _REFUSALS if isinstance(error, kind))


# OpenAPI


_EXAMPLES: dict[str, Any] = json.loads(
    files("meshwright.edges.http").joinpath("pages", "examples.json").read_text()
)
"""An example of every request and answer, by the name of its model."""
PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
"""The content of an answer that is a problem."""
_BODY_PROBLEMS = {
    400: "The body is not JSON.",
    401: "The mesh requires a key.",
    413: "The body is too large, or nested too deep.",
    422: "A field is wrong, and `field` names it.",
}
ANY_PROBLEM: dict[int | str, Any] = {
    "default": {"model": Problem, "description": "A problem, as RFC 9457 has it."}
}
"""Documents what every operation may answer instead."""
STREAM: dict[str, Any] = {
    EVENT_STREAM: {
        "schema": {
            "type": "object",
            "description": "one server-sent event of the stream",
            "required": ["data"],
            "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
        }
    }
}
"""The content of an answer that is a stream."""
EVENTS: dict[int | str, Any] = {
    200: {"content": {EVENT_STREAM: {**STREAM[EVENT_STREAM], "example": _EXAMPLES["EventStream"]}}}
}
"""Documents that an operation answers with a stream of the mesh's events."""


def problems(reasons: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Documents the problems that an operation answers with, by status."""
    return {status: {"description": reason} for status, reason in reasons.items()}


def make_router(*tags: str) -> APIRouter:
    """Makes a router whose routes read and answer JSON as all of the mesh do."""
    return APIRouter(
        tags=[*tags], default_response_class=JsonLine, route_class=_JsonRoute, responses=ANY_PROBLEM
    )


def complete_document(document: dict[str, Any]) -> dict[str, Any]:
    """Adds to an OpenAPI document the examples of models, and what every body and every problem is like."""
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        responses = operation["responses"]
        if responses["default"]["content"] == {_JSON[1].decode(): PROBLEM}:
            responses["default"]["content"] = {PROBLEM_TYPE: {**PROBLEM}}
            for status, reason in _BODY_PROBLEMS.items() if "requestBody" in operation else ():
                responses.setdefault(str(status), {"description": reason})
        for described in (operation.get("requestBody", {}), *responses.values()):
            for content in described.get("content", {}).values():
                name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
                if name in _EXAMPLES:
                    content["example"] = _EXAMPLES[name]
        for status, response in responses.items():
            if status >= "4":
                response.setdefault("content", {PROBLEM_TYPE: PROBLEM})
    return document

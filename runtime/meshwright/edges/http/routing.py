"""Routers and their routes: the mesh and the caller of a request, bodies within limits, documentation."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from importlib.resources import files
from typing import Annotated, Any, ClassVar, get_type_hints

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route, compile_path
from starlette.types import Receive, Scope, Send

from meshwright.core.access import Role
from meshwright.core.errors import Draining
from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import Caller
from meshwright.core.operations import Rule, get_operation
from meshwright.core.settings import Settings
from meshwright.edges.bodies import (
    PAYLOAD,
    PROBLEM_TYPE,
    BodyLimit,
    InvalidFields,
    Problem,
    max_size,
    read_json,
    too_large,
)
from meshwright.edges.http.errors import (
    CALLER,
    AnthropicErrorBody,
    ErrorShape,
    JsonLine,
    OpenAIErrorBody,
    RouterKind,
    router_kind,
)
from meshwright.edges.http.errors import record_misuse as record_misuse  # for WebSockets of components
from meshwright.mesh.identity.operations import Acting, Operations, check_early
from meshwright.mesh.mesh import Mesh

_JSON = (b"content-type", b"application/json")
EVENT_STREAM = "text/event-stream"
"""The content type of server-sent events."""


async def _get_mesh(request: Request) -> Mesh:
    return request.app.state.mesh


async def _get_caller(request: Request) -> Caller:
    return request.scope[CALLER]


async def _ready_mesh(request: Request) -> Mesh:
    """Returns the mesh that is asked. Raises Draining while it takes no work."""
    mesh = await _get_mesh(request)
    if not mesh.ready:
        raise Draining("The mesh is starting or stopping", remedy="Ask again in a moment")
    return mesh


MeshDep = Annotated[Mesh, Depends(_get_mesh)]
ReadyMesh = Annotated[Mesh, Depends(_ready_mesh)]
CallerDep = Annotated[Caller, Depends(_get_caller)]
"""The caller, for a dependency of a route whose role another parameter states."""


async def _document_tenant(
    tenant: Annotated[
        str | None,
        Header(alias="X-Tenant-Id", description="As `Mesh-Tenant`: refused if you may not act for it."),
    ] = None,
) -> None:
    """Documents a header that has been read with the credentials."""


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
        self.rule.check(caller, request_words(request))
        return caller


class Endpoint(Needs, ABC):
    """An endpoint that answers without the framework, at a third of its cost; its signature documents it."""

    @abstractmethod
    async def __call__(self, request: Request) -> Response:
        """Answers a request. Raises what the mesh refuses."""


class _NeedsOperation(Needs):
    def __init__(self, rule: Rule, kind: type[Acting]) -> None:
        super().__init__(rule)
        self._kind = kind

    async def check_early(self, request: Request) -> None:
        mesh, caller = request.app.state.mesh, request.scope[CALLER]
        await check_early(mesh, caller, self.rule, request_words(request))

    async def acting(self, request: Request) -> Acting:
        return self._kind(await _get_mesh(request), await self.caller(request))


def request_words(request: Request) -> str:
    """Says what a request asks for, behind `Only a caller with the role ... `."""
    return f"may {request.method} {request.url.path}"


def may(method: Callable[..., Any], kind: type[Acting] = Operations) -> Any:
    """The dependency of a route that calls an operation: `Annotated[Operations, may(Operations.cancel)]`."""
    return Depends(_NeedsOperation(get_operation(method).rule, kind).acting)


def by_rule(rule: Rule) -> Any:
    """The dependency of a route that calls a component: `caller: Annotated[Caller, by_rule(SEE)]`."""
    return Depends(Needs(rule).caller)


def needs(*roles: Role) -> Any:
    """The dependency of a route that one of some roles may use: `Annotated[Caller, needs(Role.OPERATOR)]`."""
    return by_rule(Rule("", roles))


def get_needs(endpoint: Callable[..., Any]) -> Needs | None:
    """Returns the rule of an endpoint, as it declares it or its signature has it."""
    if isinstance(endpoint, Needs):
        return endpoint
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


class _JsonRoute(APIRoute):
    """A route whose body is JSON within the limits of the mesh, whatever content type it claims to be.

    Its description ends with the roles that it takes.

    A start makes no more of it than finds it for a request. The first one has FastAPI make the rest, from the
    signature of the endpoint; so has the document of the API. For all routes that takes 0.2 s.
    """

    kind: ClassVar = RouterKind()

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.endpoint = endpoint
        self.methods = set(options.get("methods") or ["GET"])
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self._to_make = {**options, "path": path, "endpoint": endpoint}

    def __getattr__(self, name: str) -> Any:
        options = self.__dict__.pop("_to_make", None)
        if options is None:
            raise AttributeError(name, name=name, obj=self)
        endpoint = options["endpoint"]
        options["name"] = options.get("name") or endpoint.__name__.lstrip("_")  # of it the document makes ids
        needed = get_needs(endpoint)
        try:
            super().__init__(**options)
        except BaseException:  # it may import, which fails without free descriptors: the next request retries
            self._to_make = options
            raise
        if needed is not None and not self.description.endswith(roles := str(needed.rule)):
            self.description = f"{self.description}\n\n{roles}"
        return getattr(self, name)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not isinstance(self.endpoint, Endpoint) or scope["method"] not in (self.methods or ()):
            return await super().handle(scope, receive, send)
        response = await self.endpoint(Request(scope, receive))
        await response(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        model: Any = self.body_field.field_info.annotation
        needed = get_needs(self.endpoint)

        async def read_and_handle(request: Request) -> Response:
            if needed is not None:  # before anything of the body is read
                await needed.check_early(request)
            settings = (await _get_mesh(request)).settings
            body = await read_body(request, settings)
            document = read_json(body, settings, router_kind(request.scope).max_body)
            try:
                return await handle(_ReadRequest(request, document))
            except RequestValidationError as error:
                raise InvalidFields.from_problems(error.errors(), model) from None

        return read_and_handle


class _ReadRequest(Request):
    def __init__(self, request: Request, document: Any) -> None:
        headers = [header for header in request.scope["headers"] if header[0] != _JSON[0]]
        super().__init__({**request.scope, "headers": [*headers, _JSON]}, request.receive)
        self._document = document

    async def body(self) -> bytes:
        return b"null"  # there is one; `json` has it

    async def json(self) -> Any:
        return self._document


async def read_body(request: Request, settings: Settings) -> bytes:
    """Reads no more of a body than its router's limit. Raises TooLarge."""
    limit = router_kind(request.scope).max_body
    announced, body, most = request.headers.get("content-length", ""), bytearray(), max_size(settings, limit)
    if announced.isdecimal() and int(announced) > most:
        raise too_large(settings, limit)
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_large(settings, limit)
    return bytes(body)


class RouterKinds:
    """Finds the kind of the router that a request goes to."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = [
            (route.path_regex, route.methods or (), getattr(route, "kind", RouterKind()))
            for route in routes
            if isinstance(route, Route)
        ]

    def find(self, scope: Scope) -> RouterKind:
        """Returns the kind of the first route that takes a request, else of the first that has its path."""
        of_path = None
        for regex, methods, kind in self._routes:
            if regex.match(scope["path"]):
                if scope.get("method") in methods:
                    return kind
                of_path = of_path or kind
        return of_path or RouterKind()


# OpenAPI


_EXAMPLES: dict[str, Any] = json.loads(files("meshwright.edges.http").joinpath("examples.json").read_text())
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
_ANY_OPENAI_ERROR: dict[int | str, Any] = {
    "default": {
        "model": OpenAIErrorBody,
        "description": "An error, as OpenAI's API has it; a problem where the framework refuses.",
        "content": {PROBLEM_TYPE: {"schema": {"type": "object"}}},
    }
}
_ANY_ANTHROPIC_ERROR: dict[int | str, Any] = {
    "default": {
        "model": AnthropicErrorBody,
        "description": "An error, as Anthropic's API has it; a problem where the framework refuses.",
        "content": {PROBLEM_TYPE: {"schema": {"type": "object"}}},
    }
}
_ANY_ERROR = {"problem": ANY_PROBLEM, "openai": _ANY_OPENAI_ERROR, "anthropic": _ANY_ANTHROPIC_ERROR}
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


def make_router(
    *tags: str,
    errors: ErrorShape = "problem",
    max_body: BodyLimit = PAYLOAD,
    is_open: bool = False,
    counts_streams: bool = True,
    names_tenant: bool = False,
) -> APIRouter:
    """Makes a router whose routes read and answer JSON as all of the mesh do.

    `errors` are problem documents (RFC 9457), or have the shape of OpenAI's or
    Anthropic's API. A body may have `max_body`
    bytes: a number, or the names of settings of which the largest counts. Requests to a router that
    `is_open` need no key, and have no caller: its routes show public facts, or check signatures. Streams
    that it does not count are not limited by `http.max_streams`. One that `names_tenant` takes the header
    `X-Tenant-Id` as well as `Mesh-Tenant`.
    """

    class Route(_JsonRoute):
        kind = RouterKind(errors, max_body, is_open, counts_streams, names_tenant)

    return APIRouter(
        tags=[*tags],
        default_response_class=JsonLine,
        route_class=Route,
        dependencies=[Depends(_document_tenant)] if names_tenant else [],
        responses=_ANY_ERROR[errors],
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


# Deliveries, which need no key: signatures say who sends

DeliveryName = Annotated[str, Path(pattern=ID_PATTERN)]
DELIVERY_PROBLEMS = {
    400: "The body is no JSON object.",
    413: "The body is too large, or nested too deep.",
    415: "The body is not sent as application/json.",
    429: "The mesh has as many open tasks as it may: `Retry-After` says when to try again.",
}


def sender_address(request: Request) -> str:
    """The address of the sender; empty where the connection has none."""
    return request.client.host if request.client is not None else ""


def body_like(example: dict[str, str]) -> dict[str, Any]:
    """Documents a body that is read as it was sent."""
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {"requestBody": {"content": content, "required": True}}

"""What routes share: the mesh and the caller of a request, bodies within limits, answers, documentation."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from meshwright.edges.bodies import PROBLEM_TYPE, InvalidFields, Problem, check_size, read_json
from meshwright.encoding import encode
from meshwright.errors import Draining
from meshwright.mesh import Mesh
from meshwright.messages import Caller
from meshwright.settings import Settings
from meshwright.tracing import parse

CALLER = "meshwright.caller"
"""Where a request's scope has its caller."""
_JSON = (b"content-type", b"application/json")
_EVENT_STREAM = "text/event-stream"


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


def valid_trace(traceparent: str | None) -> str | None:
    """Returns a W3C traceparent; a malformed one counts as none."""
    return traceparent if traceparent and parse(traceparent) else None


class JsonLine(JSONResponse):
    """A document as JSON, with the end of line that a shell wants."""

    def render(self, content: Any) -> bytes:
        """Returns the document as it goes over the wire."""
        text = content.model_dump_json().encode() if isinstance(content, BaseModel) else encode(content)
        return b"%b\n" % text


class ServerSentEvents(StreamingResponse):
    """Frames as server-sent events. Once the client has gone, the frames are closed and `end` is called."""

    media_type = _EVENT_STREAM

    def __init__(
        self, frames: AsyncGenerator[bytes], end: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._frames = frames
        self._end = end
        super().__init__(frames, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._frames.aclose()
            if self._end is not None:
                await self._end()


class _JsonRoute(APIRoute):
    """A route whose body is JSON within the limits of the mesh, whatever content type it claims to be."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        model: Any = self.body_field.field_info.annotation

        async def read_and_handle(request: Request) -> Response:
            settings = (await _mesh_of(request)).settings
            document = read_json(await read_body(request, settings), settings)
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


async def read_body(request: Request, settings: Settings) -> bytes:
    """Reads no more of a body than its limit. Raises TooLarge."""
    announced = request.headers.get("content-length", "")
    check_size(int(announced) if announced.isdecimal() else 0, settings)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        check_size(size, settings)
        chunks.append(chunk)
    return b"".join(chunks)


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
    _EVENT_STREAM: {
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
    200: {"content": {_EVENT_STREAM: {**STREAM[_EVENT_STREAM], "example": _EXAMPLES["EventStream"]}}}
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

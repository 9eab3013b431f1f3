"""What routes share: the mesh and the caller of a request, bodies within limits, answers as lines of JSON."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic_core import to_json

from meshwright.edges.bodies import check_size, read_json
from meshwright.edges.http.openapi import ANY_PROBLEM
from meshwright.edges.problems import InvalidFields
from meshwright.errors import Draining
from meshwright.mesh import Mesh
from meshwright.messages import Caller
from meshwright.settings import Settings

CALLER = "meshwright.caller"
"""Where a request's scope has its caller."""
_JSON = (b"content-type", b"application/json")


async def mesh_of(request: Request) -> Mesh:
    """Returns the mesh that is asked."""
    mesh: Mesh = request.app.state.mesh
    return mesh


async def caller_of(request: Request) -> Caller:
    """Returns who sent a request, as the authenticator has it."""
    caller: Caller = request.scope[CALLER]
    return caller


async def _ready_mesh(request: Request) -> Mesh:
    """Returns the mesh that is asked. Raises Draining while it takes no work."""
    mesh = await mesh_of(request)
    if not mesh.ready:
        raise Draining("the mesh is starting or stopping", remedy="ask again in a moment")
    return mesh


MeshDep = Annotated[Mesh, Depends(mesh_of)]
ReadyMesh = Annotated[Mesh, Depends(_ready_mesh)]
CallerDep = Annotated[Caller, Depends(caller_of)]


class JsonLine(JSONResponse):
    """A document as JSON, with the end of line that a shell wants."""

    def render(self, content: Any) -> bytes:
        """Returns the document as it goes over the wire."""
        text = content.model_dump_json().encode() if isinstance(content, BaseModel) else to_json(content)
        return b"%b\n" % text


class JsonRoute(APIRoute):
    """A route whose body is JSON within the limits of the mesh, whatever content type it claims to be."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns FastAPI's handler, behind one that reads the body."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        model: Any = self.body_field.field_info.annotation

        async def read_and_handle(request: Request) -> Response:
            settings = (await mesh_of(request)).settings
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
        """Says that there is one; `json` has it."""
        return b"null"

    async def json(self) -> Any:
        """Returns the body."""
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


def make_router(*tags: str, route_class: type[JsonRoute] = JsonRoute) -> APIRouter:
    """Makes a router whose routes read and answer JSON as all of the mesh do."""
    return APIRouter(
        tags=[*tags],
        default_response_class=JsonLine,
        route_class=route_class,
        responses=ANY_PROBLEM,
    )

"""The context-service: what one agent should know of another's context, within its token limit."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from meshwright.api.callers import identity_of
from meshwright.api.examples import COMPRESS_REQUEST, COMPRESS_RESPONSE
from meshwright.api.openapi import answers, problems, reads
from meshwright.api.wire import RawRoute, answer, read_model, traceparent
from meshwright.context.request import CompressRequest, CompressResponse
from meshwright.mesh import Mesh
from meshwright.models.port import CallContext

REFUSALS = problems(
    {
        400: "The body is not JSON.",
        401: "The mesh requires a key.",
        413: "The body is too large, or nested too deep.",
        422: "A field is wrong, and `field` names it.",
    }
)


class ContextRoutes:
    """The context-service over HTTP."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.router.add_api_route(
            "/compress",
            self.compress,
            route_class_override=RawRoute,
            methods=["POST"],
            summary="Compress a context",
            tags=["context"],
            responses={**answers(CompressResponse, COMPRESS_RESPONSE), **REFUSALS},
            openapi_extra=reads(CompressRequest, COMPRESS_REQUEST),
        )

    async def compress(self, request: Request) -> Response:
        """Make the context that the receiver needs: by rules, and by a model where those are not enough."""
        wanted = await read_model(request, CompressRequest, self._mesh.settings)
        caller = identity_of(request).caller
        made = await self._mesh.context.compress(
            wanted,
            tenant_id=caller.tenant_id,
            traceparent=traceparent(request),
            context=CallContext(tenant_id=caller.tenant_id, budgets=caller.budgets),
        )
        return answer(made)

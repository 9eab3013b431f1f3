"""The llm-service: one answer of a model for whoever needs no agent."""

from __future__ import annotations

from typing import Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from meshwright.api.callers import account, identity_of
from meshwright.api.chat import Message, given, messages_of
from meshwright.api.completions import GONE, ClientGone, unless_gone
from meshwright.api.model_examples import COMPLETE_REQUEST, COMPLETE_RESPONSE
from meshwright.api.openapi import answers, problems, reads
from meshwright.api.refusals import ALL_DOWN
from meshwright.api.wire import RawRoute, answer, read_model
from meshwright.errors import Draining
from meshwright.mesh import Mesh
from meshwright.messages import Identifier
from meshwright.models.port import ModelRequest, ModelTimeout, ModelUnavailable

UNAVAILABLE = {"error": ALL_DOWN}


class CompleteRequest(BaseModel):
    """Messages to be answered, by how good or how fast the model has to be."""

    model_config = ConfigDict(extra="forbid")

    model: Literal["quality", "fast"]
    messages: list[Message] = Field(min_length=1)
    tenant_id: Identifier | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)


class CompleteUsage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int


class CompleteResponse(BaseModel):
    """An answer, and the model that gave it."""

    content: str
    model: str
    usage: CompleteUsage


class LlmRoutes:
    """The llm-service over HTTP."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        refusals = problems(
            {
                400: "The body is not JSON, or holds other than text.",
                401: "The mesh requires a key.",
                402: "A budget has no room for the call.",
                403: "The key is another tenant's.",
                413: "The body is too large, or nested too deep.",
                422: "A field is wrong, and `field` names it.",
                429: "The providers want us to wait: see `Retry-After`.",
                503: "No provider answers, or the mesh is stopping.",
            }
        )
        refusals[503]["content"]["application/json"] = {"example": UNAVAILABLE}
        app.router.add_api_route(
            "/complete",
            self.complete,
            route_class_override=RawRoute,
            methods=["POST"],
            summary="Have a model answer",
            tags=["models"],
            responses={**answers(CompleteResponse, COMPLETE_RESPONSE), **refusals},
            openapi_extra=reads(CompleteRequest, COMPLETE_REQUEST),
        )
        app.add_api_route("/health", self.health, summary="Is the llm-service there?", tags=["health"])

    async def health(self) -> Response:
        """Answer while the process can."""
        return answer({"status": "ok"})

    async def complete(self, request: Request) -> Response:
        """Have the best or the fastest model answer some messages. A client that goes away ends the call."""
        wanted = await self._read(request)
        try:
            reply = await unless_gone(request, self._mesh.model.complete(wanted))
        except (ModelUnavailable, ModelTimeout):
            return answer(UNAVAILABLE, 503)
        except ClientGone:
            return Response(status_code=GONE)
        usage = CompleteUsage(
            prompt_tokens=reply.usage.prompt_tokens, completion_tokens=reply.usage.completion_tokens
        )
        return answer(CompleteResponse(content=reply.content, model=reply.model, usage=usage))

    async def _read(self, request: Request) -> ModelRequest:
        if not self._mesh.ready:
            raise Draining("the mesh is starting or stopping", remedy="ask again in a moment")
        asked = await read_model(request, CompleteRequest, self._mesh.settings)
        caller = account(identity_of(request), tenant_id=asked.tenant_id, user=None)
        return ModelRequest(
            model=asked.model,
            messages=messages_of(asked.messages),
            user=caller.user,
            context=caller.context,
            **given({"max_tokens": asked.max_tokens, "temperature": asked.temperature}),
        )

"""POST /webhooks/SOURCE. It needs no key of the mesh: the sender's signature says who it is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel

from meshwright.core.messages import ID_PATTERN
from meshwright.edges.http.routing import ReadyMesh, make_router, problems, read_body
from meshwright.edges.webhooks.receiver import WebhookReceiver


class Delivered(BaseModel):
    """The tasks of a delivery: those it made, or made when it was sent before."""

    tasks: list[str]


def make_routes(receiver: WebhookReceiver) -> APIRouter:
    """Returns the route of deliveries."""
    router = make_router("webhooks", is_open=True, max_body=("webhooks.max_body_bytes",))

    @router.post(
        "/webhooks/{source}",
        summary="Deliver a webhook",
        response_description="It matches no rule; an event says that it came.",
        responses={
            202: {"model": Delivered, "description": "Its tasks are durable."},
            **problems(
                {
                    400: "The body is no JSON object.",
                    401: "There is no such source, or its signature or token is wrong.",
                    413: "The body is too large, or nested too deep.",
                    415: "The body is not sent as application/json.",
                    429: "The mesh has as many open tasks as it may: `Retry-After` says when to try again.",
                }
            ),
        },
        openapi_extra={
            "requestBody": {
                "content": {
                    "application/json": {"schema": {"type": "object"}, "example": {"action": "opened"}}
                },
                "required": True,
            }
        },
    )
    async def deliver(
        request: Request,
        response: Response,
        mesh: ReadyMesh,
        source: Annotated[str, Path(pattern=ID_PATTERN)],
    ) -> Delivered:
        """Take a delivery of a source of the settings: each rule that fits makes a task.

        Who may is decided by signature: that of the source's kind, over the body as it was sent. A delivery
        that is sent again is the same tasks. They are durable when this answers.
        """
        address = request.client.host if request.client is not None else ""
        known = receiver.source(source, address)
        body = await read_body(request, mesh.settings)
        receiver.authenticate(known, request.headers, body, address)
        items = known.read(request.headers, body, mesh.settings.max_payload_depth)
        tasks = await receiver.accept(known, items)
        response.status_code = 202 if tasks else 200
        return Delivered(tasks=tasks)

    return router

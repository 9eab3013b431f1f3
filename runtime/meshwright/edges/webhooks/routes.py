"""The route of the deliveries of sources."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from meshwright.edges.http.routing import (
    DELIVERY_PROBLEMS,
    DeliveryName,
    ReadyMesh,
    body_like,
    make_router,
    problems,
    read_body,
    sender_address,
)
from meshwright.edges.webhooks.receiver import WebhookReceiver


class Delivered(BaseModel):
    """The tasks of a delivery: those it made, or made when it was sent before.

    `dropped` says why rules that match it have made none.
    """

    tasks: list[str]
    dropped: list[str] = []


def webhook_routes(receiver: WebhookReceiver) -> APIRouter:
    """Returns the route of the deliveries of sources."""
    router = make_router("webhooks", is_open=True, max_body=("webhooks.max_body_bytes",))

    @router.post(
        "/webhooks/{source}",
        summary="Deliver a webhook",
        response_description="It makes no task; the event `webhook.received` says why.",
        response_model_exclude_defaults=True,
        responses={
            202: {"model": Delivered, "description": "Its tasks are durable."},
            **problems(
                {**DELIVERY_PROBLEMS, 401: "There is no such source, or its signature or token is wrong."}
            ),
        },
        openapi_extra=body_like({"action": "opened"}),
    )
    async def deliver(
        request: Request, response: Response, mesh: ReadyMesh, source: DeliveryName
    ) -> Delivered:
        """Take a delivery of a source of the settings: each rule that fits makes a task.

        The signature of the source's kind, over the body as it was sent, decides who may. A delivery that is
        sent again is the same tasks. They are durable when this answers.
        """
        address = sender_address(request)
        sender = receiver.source(source, address)
        body = await read_body(request, mesh.settings)
        receiver.authenticate(sender, request.headers, body, address)
        accepted = await receiver.accept(
            sender, sender.read(request.headers, body, mesh.settings.max_payload_depth)
        )
        response.status_code = 202 if accepted.tasks else 200
        return Delivered(**accepted._asdict())

    return router

"""The routes of deliveries. They need no key: the signatures of the senders say who they are."""

from __future__ import annotations

import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from meshwright.core.messages import ID_PATTERN
from meshwright.edges.channels.receiver import Accepted, ChannelReceiver
from meshwright.edges.deliveries import json_object
from meshwright.edges.http.routing import ReadyMesh, make_router, problems, read_body
from meshwright.edges.webhooks.receiver import WebhookReceiver

_MAX_MESSAGE_BYTES = 3 * 1024 * 1024  # of a delivery of WhatsApp
_Name = Annotated[str, Path(pattern=ID_PATTERN)]
_PROBLEMS = {
    400: "The body is no JSON object.",
    413: "The body is too large, or nested too deep.",
    415: "The body is not sent as application/json.",
    429: "The mesh has as many open tasks as it may: `Retry-After` says when to try again.",
}
_NO_CHANNEL = {401: "There is no such channel, or the signature or token is wrong."}


class Messages(BaseModel):
    """The messages of a delivery that became tasks or answers; `challenge` is what Slack wants back."""

    accepted: list[Accepted] = []
    challenge: str | None = None


class Delivered(BaseModel):
    """The tasks of a delivery: those it made, or made when it was sent before."""

    tasks: list[str]


def channel_routes(receiver: ChannelReceiver) -> APIRouter:
    """Returns the routes of the messages of chats."""
    router = make_router("channels", is_open=True, max_body=_MAX_MESSAGE_BYTES)

    @router.post(
        "/channels/{channel}",
        summary="Deliver messages of a chat",
        response_model_exclude_none=True,
        responses=problems({**_PROBLEMS, **_NO_CHANNEL, 422: "It is no message."}),
        openapi_extra=_body_like({"type": "event_callback"}),
    )
    async def deliver(request: Request, mesh: ReadyMesh, channel: _Name) -> Messages:
        """Take the messages of a channel of the settings. Replies are sent later, where they came from.

        A signature over the body as it was sent decides who may. A message that is sent again is the same
        task. All is durable when this answers.
        """
        address = _address_of(request)
        known = receiver.channel(channel, address)
        body = await read_body(request, mesh.settings)
        receiver.authenticate(known, request.headers, body, address)
        document = json_object(request.headers, body, mesh.settings.max_payload_depth)
        if known.settings.kind == "slack" and document.get("type") == "url_verification":
            return Messages(challenge=str(document.get("challenge", ""))[:1000])
        return Messages(accepted=await receiver.accept(known, known.chat.read(document)))

    @router.get(
        "/channels/{channel}",
        summary="Prove the address of a webhook to WhatsApp",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The challenge."},
            **problems({**_NO_CHANNEL, 422: "The name or the challenge is none."}),
        },
    )
    async def verify(
        request: Request,
        channel: _Name,
        mode: Annotated[str, Query(alias="hub.mode")] = "",
        token: Annotated[str, Query(alias="hub.verify_token")] = "",
        challenge: Annotated[str, Query(alias="hub.challenge", max_length=1000)] = "",
    ) -> Any:
        """Give WhatsApp's challenge back, where its token is that of the settings."""
        address = _address_of(request)
        verify_token = receiver.channel(channel, address).settings.verify_token
        expected = b"" if verify_token is None else verify_token.get_secret_value().encode()
        is_right = hmac.compare_digest(token.encode(), expected)
        if mode != "subscribe" or verify_token is None or not is_right:
            raise receiver.gate.refused(channel, address, "the verify token is missing or wrong")
        return PlainTextResponse(challenge)

    return router


def webhook_routes(receiver: WebhookReceiver) -> APIRouter:
    """Returns the route of the deliveries of sources."""
    router = make_router("webhooks", is_open=True, max_body=("webhooks.max_body_bytes",))

    @router.post(
        "/webhooks/{source}",
        summary="Deliver a webhook",
        response_description="It matches no rule; an event says that it came.",
        responses={
            202: {"model": Delivered, "description": "Its tasks are durable."},
            **problems({**_PROBLEMS, 401: "There is no such source, or its signature or token is wrong."}),
        },
        openapi_extra=_body_like({"action": "opened"}),
    )
    async def deliver(request: Request, response: Response, mesh: ReadyMesh, source: _Name) -> Delivered:
        """Take a delivery of a source of the settings: each rule that fits makes a task.

        The signature of the source's kind, over the body as it was sent, decides who may. A delivery that is
        sent again is the same tasks. They are durable when this answers.
        """
        address = _address_of(request)
        known = receiver.source(source, address)
        body = await read_body(request, mesh.settings)
        receiver.authenticate(known, request.headers, body, address)
        tasks = await receiver.accept(
            known, known.read(request.headers, body, mesh.settings.max_payload_depth)
        )
        response.status_code = 202 if tasks else 200
        return Delivered(tasks=tasks)

    return router


def _address_of(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _body_like(example: dict[str, str]) -> dict[str, Any]:
    """Documents a body that is read as it was sent."""
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {"requestBody": {"content": content, "required": True}}

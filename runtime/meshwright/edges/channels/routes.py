"""The route of the messages of chats."""

from __future__ import annotations

import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from meshwright.edges.channels.relay import Accepted, ChannelReceiver
from meshwright.edges.deliveries import json_object
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

_MAX_MESSAGE_BYTES = 3 * 1024 * 1024  # of a delivery of WhatsApp
_NO_CHANNEL = {401: "There is no such channel, or the signature or token is wrong."}


class Messages(BaseModel):
    """The messages of a delivery that became tasks or answers; `challenge` is what Slack wants back."""

    accepted: list[Accepted] = []
    challenge: str | None = None


def channel_routes(receiver: ChannelReceiver) -> APIRouter:
    """Returns the routes of the messages of chats."""
    router = make_router("channels", is_open=True, max_body=_MAX_MESSAGE_BYTES)

    @router.post(
        "/channels/{channel}",
        summary="Deliver messages of a chat",
        response_model_exclude_none=True,
        responses=problems({**DELIVERY_PROBLEMS, **_NO_CHANNEL, 422: "It is no message."}),
        openapi_extra=body_like({"type": "event_callback"}),
    )
    async def deliver(request: Request, mesh: ReadyMesh, channel: DeliveryName) -> Messages:
        """Take the messages of a channel of the settings. Replies are sent later, where they came from.

        A signature over the body as it was sent decides who may. A message that is sent again is the same
        task. All is durable when this answers.
        """
        address = sender_address(request)
        target = receiver.channel(channel, address)
        body = await read_body(request, mesh.settings)
        receiver.authenticate(target, request.headers, body, address)
        document = json_object(request.headers, body, mesh.settings.max_payload_depth)
        if target.settings.kind == "slack" and document.get("type") == "url_verification":
            return Messages(challenge=str(document.get("challenge", ""))[:1000])
        return Messages(accepted=await receiver.accept(target, target.chat.read(document)))

    @router.get(
        "/channels/{channel}",
        summary="Prove the address to WhatsApp",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The challenge."},
            **problems({**_NO_CHANNEL, 422: "The name or the challenge is none."}),
        },
    )
    async def verify(
        request: Request,
        channel: DeliveryName,
        mode: Annotated[str, Query(alias="hub.mode")] = "",
        token: Annotated[str, Query(alias="hub.verify_token")] = "",
        challenge: Annotated[str, Query(alias="hub.challenge", max_length=1000)] = "",
    ) -> Any:
        """Give WhatsApp's challenge back, where its token is that of the settings."""
        address = sender_address(request)
        verify_token = receiver.channel(channel, address).settings.verify_token
        expected = b"" if verify_token is None else verify_token.get_secret_value().encode()
        is_right = hmac.compare_digest(token.encode(), expected)
        if mode != "subscribe" or verify_token is None or not is_right:
            raise receiver.gate.refused(channel, address, "the verify token is missing or wrong")
        return PlainTextResponse(challenge)

    return router

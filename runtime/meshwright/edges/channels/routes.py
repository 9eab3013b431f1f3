"""POST /channels/NAME. It needs no key of the mesh: the service's signature says who sends it."""

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

_MAX_BODY_BYTES = 3 * 1024 * 1024  # of a delivery of WhatsApp
_Name = Annotated[str, Path(pattern=ID_PATTERN)]
_REFUSED = {401: "There is no such channel, or the signature or token is wrong."}


class Messages(BaseModel):
    """The messages of a delivery that became tasks or answers; `challenge` is what Slack wants back."""

    accepted: list[Accepted] = []
    challenge: str | None = None


def make_routes(receiver: ChannelReceiver) -> APIRouter:
    """Returns the routes of deliveries."""
    router = make_router("channels", is_open=True, max_body=_MAX_BODY_BYTES)
    _add_deliver(router, receiver)
    _add_verify(router, receiver)
    return router


def _add_deliver(router: APIRouter, receiver: ChannelReceiver) -> None:
    @router.post(
        "/channels/{channel}",
        summary="Deliver messages of a chat",
        response_model_exclude_none=True,
        responses=problems(
            _REFUSED
            | {
                400: "The body is no JSON object.",
                413: "The body is too large, or nested too deep.",
                415: "The body is not sent as application/json.",
                422: "It is no message.",
                429: "The mesh has as many open tasks as it may: `Retry-After` says when to try again.",
            }
        ),
        openapi_extra={
            "requestBody": {
                "content": {
                    "application/json": {"schema": {"type": "object"}, "example": {"type": "event_callback"}}
                },
                "required": True,
            }
        },
    )
    async def deliver(request: Request, mesh: ReadyMesh, channel: _Name) -> Messages:
        """Take the messages of a channel of the settings. Replies are sent later, where they came from.

        Who may is decided by signature, over the body as it was sent. A message that is sent again is the
        same task. All is durable when this answers.
        """
        address = request.client.host if request.client is not None else ""
        known = receiver.channel(channel, address)
        body = await read_body(request, mesh.settings)
        receiver.authenticate(known, request.headers, body, address)
        document = json_object(request.headers, body, mesh.settings.max_payload_depth)
        if known.settings.kind == "slack" and document.get("type") == "url_verification":
            return Messages(challenge=str(document.get("challenge", ""))[:1000])
        return Messages(accepted=await receiver.accept(known, known.chat.read(document)))


def _add_verify(router: APIRouter, receiver: ChannelReceiver) -> None:
    @router.get(
        "/channels/{channel}",
        summary="Prove the address of a webhook to WhatsApp",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The challenge."},
            **problems(_REFUSED | {422: "The name or the challenge is none."}),
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
        address = request.client.host if request.client is not None else ""
        expected = receiver.channel(channel, address).settings.verify_token
        if (
            mode != "subscribe"
            or expected is None
            or not hmac.compare_digest(token.encode(), expected.get_secret_value().encode())
        ):
            raise receiver.gate.refused(channel, address, "the verify token is missing or wrong")
        return PlainTextResponse(challenge)

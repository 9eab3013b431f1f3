"""Events from outside, published to a topic of the application: for the log, and for runs that wait."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header
from pydantic import BaseModel, ConfigDict, Field

from meshwright.core.topics import type_on
from meshwright.edges.http.routing import ReadyMesh, make_router, may, problems
from meshwright.identity.operations import Operations

router = make_router("events")
_NAME = r"[A-Za-z0-9_-]{1,64}"


class EventRequest(BaseModel):
    """An event from outside. Its topic begins with `app.`, and so does the type that the log has for it."""

    model_config = ConfigDict(extra="forbid")

    topic: str = Field(max_length=256, pattern=rf"^app(\.{_NAME})+$")
    event_type: str = Field(max_length=128, pattern=rf"^{_NAME}(\.{_NAME})*$")
    payload: dict[str, Any] = Field(default_factory=dict)


class PublishedEvent(BaseModel):
    """The id and the type under which the log has an event."""

    id: str
    event_type: str


@router.post(
    "/events",
    status_code=202,
    summary="Publish an event",
    response_description="Durable.",
    responses=problems({507: "The tenant stores as much as it may."}),
)
async def publish(
    mesh: ReadyMesh,
    operations: Annotated[Operations, may("publish")],
    event: EventRequest,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="An event with a key that was used before is not published again.",
        ),
    ] = None,
) -> PublishedEvent:
    """Publish an event of your own: it is in the log when this answers, and answers runs that wait for it."""
    event_id = await operations.publish(
        event.topic, event.event_type, event.payload, idempotency_key=idempotency_key
    )
    return PublishedEvent(id=event_id, event_type=type_on(event.topic, event.event_type))

"""Events: query the log by each of its fields and by range, or follow it live."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import FastAPI, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from meshwright.api.callers import identity_of
from meshwright.api.examples import EVENT_PAGE
from meshwright.api.openapi import answers, streams
from meshwright.api.sse import Streams
from meshwright.api.wire import answer
from meshwright.errors import InvalidInput
from meshwright.events.filter import EventFilter
from meshwright.events.log import EventLog
from meshwright.mesh import Mesh
from meshwright.messages import Event

MAX_SEQ = 2**63 - 1
Seq = Annotated[int, Field(ge=0, le=MAX_SEQ)]
Text = Annotated[str, Field(min_length=1, max_length=512)]


class Start(BaseModel):
    """Where to begin: behind the event of this `seq`."""

    model_config = ConfigDict(extra="forbid")

    after_seq: Seq | None = None


class Range(Start):
    """Which part of the events, and how many of them. `order=desc` begins with the newest."""

    before_seq: Seq | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    limit: int = Field(default=100, ge=1, le=1000)
    order: Literal["asc", "desc"] = "asc"


class Fields(BaseModel):
    """What the events have to have in common."""

    trace_id: Text | None = None
    task_id: Text | None = None
    agent_id: Text | None = None
    event_type: Text | None = None
    event_version: Seq | None = None
    aggregate_id: Text | None = None
    idempotency_key: Text | None = None
    topic: Text | None = None


class EventQuery(Range, Fields):
    """The events to look up."""


class EventTail(Start, Fields):
    """The events to follow."""


class EventPage(BaseModel):
    """Events in order. `next_seq` is what to give as `after_seq` for more (descending: as `before_seq`).

    A page ends at `limit` events, or at some megabytes.
    """

    items: list[Event]
    next_seq: int | None = None


async def event_page(log: EventLog, query: Range, tenant_id: str, **fields: object) -> EventPage:
    """Look up one page of a tenant's events."""
    page = await log.page(make_filter(query, tenant_id, **fields))
    return EventPage(items=page.events, next_seq=page.next_seq)


def make_filter(query: Start, tenant_id: str, **fields: object) -> EventFilter:
    """What the log is asked, from what a client asked; it sees no tenant but its own."""
    asked = query.model_dump(exclude_none=True)
    return EventFilter.model_validate({**asked, **fields, "tenant_id": tenant_id})


def resume_after(request: Request, start: Start) -> int | None:
    """The seq behind which a stream begins: `Last-Event-ID` of a client that was cut off, or `after_seq`."""
    last = request.headers.get("last-event-id")
    if not last:
        return start.after_seq
    if not (last.isascii() and last.isdecimal()) or int(last) > MAX_SEQ:
        raise InvalidInput(
            "Last-Event-ID must be the id of an event of this stream, a number",
            remedy="leave it out to begin with what comes next",
            field="Last-Event-ID",
        )
    return int(last)


class EventRoutes:
    """The event log over HTTP."""

    def __init__(self, mesh: Mesh, streams: Streams) -> None:
        self._log = mesh.log
        self._streams = streams

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.add_api_route(
            "/events",
            self.query,
            summary="Query the event log",
            tags=["events"],
            responses=answers(EventPage, EVENT_PAGE),
        )
        app.add_api_route(
            "/events/stream",
            self.stream,
            summary="Follow the event log",
            tags=["events"],
            responses=streams({}),
        )

    async def query(self, request: Request, query: Annotated[EventQuery, Query()]) -> Response:
        """Look up events by their fields, by range of `seq`, or by time."""
        return answer(await event_page(self._log, query, identity_of(request).tenant_id))

    async def stream(self, request: Request, tail: Annotated[EventTail, Query()]) -> Response:
        """Follow events as they are committed, from now on or behind `Last-Event-ID`.

        None comes twice, and none is left out, but for the pieces of answers (`model.delta`), which no log
        keeps: they have no id.
        """
        after_seq = resume_after(request, tail)
        if after_seq is None:
            after_seq = await self._log.last_seq()
        wanted = make_filter(tail, identity_of(request).tenant_id, after_seq=after_seq)
        return self._streams.respond(self._log.follow(wanted, live=True))

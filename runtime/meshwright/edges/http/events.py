"""Events: query the log by each of its fields and by range, follow it as server-sent events, publish one.

In a stream `id` is the event's seq, if any, `event` its type, `data` the event as JSON. All events that are
ready go out in one write. A client that reads slowly holds up its own stream alone. Streams of the log that
show the same share one reading (`broadcast`), and while more than a few are open get events at intervals.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Header, Query, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from meshwright.core.clock import parse_duration
from meshwright.core.errors import InvalidInput
from meshwright.core.event_lines import event_text, find_tries
from meshwright.core.events import Event
from meshwright.core.operations import Input
from meshwright.core.topics import type_on
from meshwright.edges.http.broadcast import PIECE_BYTES, PING_SECONDS, Broadcast
from meshwright.edges.http.errors import JsonLine
from meshwright.edges.http.routing import EVENTS, ReadyMesh, make_router, may, problems
from meshwright.edges.http.sessions import ServerSentEvents
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import Page
from meshwright.mesh.identity.events import Common, EventFeed, EventOperations
from meshwright.mesh.identity.filters import TaskCriteria

router = make_router("events")
_RETRY_MS = 1000  # a browser waits so long before it connects again
_MAX_CACHED_BYTES = 4 * 1024 * 1024  # frames kept for the next stream that needs them

_MAX_SEQ = 2**63 - 1
_Seq = Annotated[int, Field(ge=0, le=_MAX_SEQ)]
_Text = Annotated[str, Field(min_length=1, max_length=512)]


def _read_ago(value: Any) -> Any:
    try:
        return datetime.now(UTC) - parse_duration(value)
    except (TypeError, ValueError, OverflowError):
        return value


_Time = Annotated[AwareDatetime, BeforeValidator(_read_ago)]
"""A time: `24h` ago (s, m, h, d or w), or RFC 3339 with a zone."""


class Start(Input):
    """The beginning: behind the event of this `seq`."""

    after_seq: _Seq | None = None


class Range(Start):
    """Which part of the events, and how many of them. `order=desc` begins with the newest.

    With `lines` the answer has the text of each, as `mesh events` prints it, and which of them it leaves out.
    """

    before_seq: _Seq | None = None
    since: _Time | None = None
    until: _Time | None = None
    limit: int = Field(default=100, ge=1, le=1000)
    order: Literal["asc", "desc"] = "asc"
    lines: bool = False


class Fields(TaskCriteria):
    """The fields that the events have in common, and those of their tasks."""

    trace_id: _Text | None = None
    task_id: _Text | None = None
    agent_id: _Text | None = None
    event_type: _Text | None = None
    event_version: _Seq | None = None
    aggregate_id: _Text | None = None
    idempotency_key: _Text | None = None
    topic: _Text | None = None
    deployment: _Text | None = Field(
        default=None, description="Calls of models that this deployment answered, or that failed at it."
    )
    failed_at: _Text | None = Field(
        default=None, description="Calls of models of which an attempt failed at this deployment."
    )


class _EventQuery(Range, Fields):
    """The events to look up."""


class _EventTail(Start, Fields):
    """The events to follow."""


class EventPage(BaseModel):
    """Events in order. `next_seq` is what to give as `after_seq` for more (descending: as `before_seq`).

    A page ends at `limit` events, or at some megabytes. `lines` are the texts of the items, if asked for, and
    `tries` then the `seq` of those that tell of a task which tried again in vain: they say nothing new.
    """

    items: list[Event]
    next_seq: int | None = None
    lines: list[str] | None = None
    tries: list[int] | None = None


def page_response(page: Page, query: Range) -> Response:
    """Answers with one page of events."""
    answer = EventPage(items=page.events, next_seq=page.next_seq)
    if query.lines:
        answer.lines = [event_text(event.model_dump(mode="json")) for event in page.events]
        answer.tries = find_tries(page.events if query.order == "asc" else page.events[::-1])
    return JsonLine(answer)


def make_filter(query: Start, **fields: object) -> EventFilter:
    """Makes the log's filter of a client's query."""
    values = query.model_dump(exclude_none=True, exclude={"lines"})
    of_task = {name: values.pop(name) for name in TaskCriteria.model_fields if name in values}
    return EventFilter.model_validate({**values, "of_task": of_task or None, **fields})


def resume_after(request: Request, start: Start) -> int | None:
    """The seq behind which a stream begins: `Last-Event-ID` of a client that was cut off, or `after_seq`."""
    last = request.headers.get("last-event-id")
    if not last:
        return start.after_seq
    if not (last.isascii() and last.isdecimal() and len(last) < 20) or int(last) > _MAX_SEQ:
        raise InvalidInput(
            "Last-Event-ID must be the id of an event of this stream, a number",
            remedy="Leave it out to begin with what comes next",
            field="Last-Event-ID",
        )
    return int(last)


@router.get("/events", summary="Query the event log", response_model=EventPage)
async def _query_events(
    operations: Annotated[EventOperations, may(EventOperations.events, EventOperations)],
    query: Annotated[_EventQuery, Query()],
) -> Response:
    """Look up events by their fields or those of their tasks, by range of `seq`, or by time.

    A value of a task that there never was is a 404, with those there are.
    """
    return page_response(await operations.events(make_filter(query)), query)


@router.get(
    "/events/stream", summary="Follow the event log", responses=EVENTS, response_class=StreamingResponse
)
async def _stream_events(
    request: Request,
    operations: Annotated[EventOperations, may(EventOperations.tail, EventOperations)],
    tail: Annotated[_EventTail, Query()],
) -> Response:
    """Follow events as they are committed, from now on or behind `Last-Event-ID`.

    None comes twice, and none is left out, but for the pieces of answers (`model.delta`), which no log
    keeps: they have no id.
    """
    filter = make_filter(tail, after_seq=resume_after(request, tail))
    return open_streams(request).respond(await operations.tail(filter))


def open_streams(request: Request) -> Streams:
    """Returns the open streams of the server."""
    return request.app.state.streams


class Streams:
    """All streams of a server: they share encoded events, and end together when the server stops."""

    def __init__(self) -> None:
        self._closed: asyncio.Future[None] | None = None
        self._whole = _Frames(_encode_frame)
        self._facts = _Frames(_encode_frame)
        self._shared: dict[str, Broadcast] = {}
        self._open = 0

    def respond(self, feed: EventFeed) -> ServerSentEvents:
        """Answer with events as they come, until one is the last."""
        frame = self._whole.get if feed.is_whole else self._facts.get
        frames = self._alone(feed, frame) if feed.common is None else self._together(feed, feed.common, frame)
        return ServerSentEvents(frames, feed.batches.aclose)

    def close(self) -> None:
        """End every stream after what it has ready; a client that resumes by Last-Event-ID loses nothing."""
        if not (closed := self.closing()).done():
            closed.set_result(None)
        for shared in self._shared.values():
            shared.end()

    def closing(self) -> asyncio.Future[None]:
        """A future that is done once the streams end."""
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_future()
        return self._closed

    async def _alone(self, feed: EventFeed, frame: Callable[[Event], bytes]) -> AsyncGenerator[bytes]:
        yield format_sse_event(retry=_RETRY_MS)
        async with aclosing(self._read(feed.batches, feed.is_last, frame)) as pieces:
            async for _, piece in pieces:
                if piece:
                    yield piece

    async def _together(
        self, feed: EventFeed, common: Common, frame: Callable[[Event], bytes]
    ) -> AsyncGenerator[bytes]:
        """Read with others; but alone as long as one is behind them, which may happen to a slow one again."""
        yield format_sse_event(retry=_RETRY_MS)
        shared = self._join(common, frame)
        position = common.position
        try:
            while not self.closing().done():
                if is_covered := shared.covers(position):
                    source = shared.follow(position)
                else:
                    source = self._read(common.after(position), feed.is_last, frame)
                async with aclosing(source) as pieces:
                    async for reached, piece in pieces:
                        position = max(position, reached)
                        if piece:
                            yield piece
                        elif shared.covers(position):
                            break
                    else:
                        if not is_covered:
                            return
        finally:
            await self._leave(common, shared)

    def _join(self, common: Common, frame: Callable[[Event], bytes]) -> Broadcast:
        self._open += 1
        shared = self._shared.get(common.key)
        if shared is None:
            batches = common.after(common.newest)
            shared = self._shared[common.key] = Broadcast(common.newest, batches, frame, lambda: self._open)
        shared.readers += 1
        return shared

    async def _leave(self, common: Common, shared: Broadcast) -> None:
        self._open -= 1
        shared.readers -= 1
        if not shared.readers:
            del self._shared[common.key]
            await shared.close()

    async def _read(
        self,
        batches: AsyncGenerator[list[Event]],
        is_last: Callable[[Event], bool],
        frame: Callable[[Event], bytes],
    ) -> AsyncGenerator[tuple[int, bytes]]:
        """The events of one stream: pieces to write, and after each batch its last seq without a piece."""
        closing = self.closing()
        reading: asyncio.Future[list[Event] | None] | None = None
        try:
            while True:
                # A task of its own: a timeout would end the generator that it waits for.
                reading = reading or asyncio.ensure_future(anext(batches, None))
                waiting = {reading, closing}
                await asyncio.wait(waiting, timeout=PING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    batch, reading = reading.result(), None
                    if batch is None:
                        return
                    end = next((number for number, event in enumerate(batch, 1) if is_last(event)), None)
                    batch = batch[:end]
                    for piece in _pieces(map(frame, batch)):
                        yield 0, piece
                        await asyncio.sleep(0)  # others have their turn
                    if end is not None:
                        return
                    yield max((event.seq or 0 for event in batch), default=0), b""
                elif closing.done():
                    return
                else:
                    yield 0, KEEPALIVE_COMMENT
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            await batches.aclose()


@contextmanager
def leaving(request: Request) -> Iterator[Collection[asyncio.Future[Any]]]:
    """Futures of which one is done once a waiting request needs no answer any more.

    Its client has gone, its credentials have ended, or the server stops. The end raises ClientDisconnect, and
    the error by which the credentials ended. Raises Overloaded where too many requests wait.
    """
    state = request.app.state
    with state.sessions.hold(request.scope) as refusal:
        gone = asyncio.create_task(_disconnected(request), name="waiting request")
        try:
            yield gone, refusal, state.streams.closing()
        finally:
            has_gone = not gone.cancel()
        if refusal.done():
            raise refusal.result()
        if has_gone:
            raise ClientDisconnect


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass  # the body, which is read already or has nothing


class _Frames:
    """Events as they go over the wire, encoded once for all streams; without id where no log has them."""

    def __init__(self, encode: Callable[[Event], bytes]) -> None:
        self._encode = encode
        self._frames: dict[int, bytes] = {}
        self._cached_bytes = 0

    def get(self, event: Event) -> bytes:
        frame = self._frames.get(event.seq or 0)
        if frame is None:
            frame = self._encode(event)
            if event.seq is not None:
                if self._cached_bytes > _MAX_CACHED_BYTES:
                    self._frames.clear()
                    self._cached_bytes = 0
                self._frames[event.seq] = frame
                self._cached_bytes += len(frame)
        return frame


def _pieces(frames: Iterable[bytes]) -> Iterator[bytes]:
    piece = bytearray()
    for frame in frames:
        piece += frame
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _encode_frame(event: Event) -> bytes:
    number = None if event.seq is None else str(event.seq)
    return format_sse_event(id=number, event=event.event_type, data_str=event.encode().decode())


_NAME = r"[A-Za-z0-9_-]{1,64}"


class EventRequest(Input):
    """An event from outside. Its topic begins with `app.`, and so does the type that the log has for it."""

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
async def _publish(
    mesh: ReadyMesh,
    operations: Annotated[EventOperations, may(EventOperations.publish, EventOperations)],
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

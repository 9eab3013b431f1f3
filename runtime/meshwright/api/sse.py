"""Events as server-sent events: `id` is the event's seq, if any, `event` its type, `data` the event as JSON.

Whatever is ready goes out in one write. A client that reads slowly holds up its own stream alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from anyio import BrokenResourceError, EndOfStream, WouldBlock, create_memory_object_stream, move_on_after
from anyio.streams.memory import MemoryObjectReceiveStream
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from meshwright.messages import Event

RETRY_MS = 1000  # a browser waits so long before it connects again
PING_SECONDS = 15.0
MAX_WAITING = 512  # frames of one stream that wait to be sent
MAX_WAITING_BYTES = 1024 * 1024  # beyond which no frame is added to them
MAX_KEPT_BYTES = 4 * 1024 * 1024  # frames kept for the next stream that needs them

Events = AsyncGenerator[Event]
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Streams:
    """All the streams of a server: they share encoded events, and end together when the server stops."""

    def __init__(self) -> None:
        self._open: set[EventStream] = set()
        self._closed = False
        self._frames: dict[int, bytes] = {}
        self._kept_bytes = 0

    def respond(self, events: Events, is_last: Callable[[Event], bool] | None = None) -> EventStream:
        """Answer with events as they come, until one is the last or there are no more."""
        return EventStream(self, events, is_last)

    def close(self) -> None:
        """End every stream after what it has ready; a client that resumes by Last-Event-ID loses nothing."""
        self._closed = True
        for stream in self._open:
            stream.end()

    def frame(self, event: Event) -> bytes:
        """An event as it goes over the wire, encoded once for all streams; without id where no log has it."""
        if event.seq is None:
            return format_sse_event(event=event.event_type, data_str=event.model_dump_json())
        seq = event.seq
        frame = self._frames.get(seq)
        if frame is None:
            frame = format_sse_event(id=str(seq), event=event.event_type, data_str=event.model_dump_json())
            if self._kept_bytes > MAX_KEPT_BYTES:
                self._frames.clear()
                self._kept_bytes = 0
            self._frames[seq] = frame
            self._kept_bytes += len(frame)
        return frame

    def opened(self, stream: EventStream) -> None:
        """Note a stream that has begun."""
        self._open.add(stream)
        if self._closed:
            stream.end()

    def ended(self, stream: EventStream) -> None:
        """Forget a stream."""
        self._open.discard(stream)


class EventStream(EventSourceResponse):
    """A response that is a stream of events, with a comment every 15 s in which there is none."""

    def __init__(self, streams: Streams, events: Events, is_last: Callable[[Event], bool] | None) -> None:
        self._streams = streams
        self._events = events
        self._is_last = is_last
        self._feeding: asyncio.Task[None] | None = None
        self._frames, receive = create_memory_object_stream[bytes](MAX_WAITING)
        self._body = self._written(receive)
        self._waiting_bytes = 0
        self._sent = asyncio.Event()
        super().__init__(self._body, headers=HEADERS)

    def end(self) -> None:
        """Add nothing more, and end when what is ready has gone out."""
        if self._feeding is not None:
            self._feeding.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. What keeps events from being read breaks it off."""
        self._feeding = asyncio.create_task(self._feed(), name="event-stream")
        self._feeding.add_done_callback(lambda _: self._frames.close())
        self._streams.opened(self)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.ended(self)
            self._feeding.cancel()
            await self._body.aclose()
            [result] = await asyncio.gather(self._feeding, return_exceptions=True)
        if isinstance(result, Exception):
            raise result

    async def _feed(self) -> None:
        async with aclosing(self._events) as events:
            async for event in events:
                try:
                    await self._put(self._streams.frame(event))
                except BrokenResourceError:
                    return  # the client is gone
                if self._is_last is not None and self._is_last(event):
                    return

    async def _put(self, frame: bytes) -> None:
        while self._waiting_bytes >= MAX_WAITING_BYTES:
            self._sent.clear()
            await self._sent.wait()
        self._waiting_bytes += len(frame)
        try:
            self._frames.send_nowait(frame)  # costs no round of the loop, so that what is ready gathers
        except WouldBlock:
            await self._frames.send(frame)

    async def _written(self, frames: MemoryObjectReceiveStream[bytes]) -> AsyncGenerator[bytes]:
        """The body: all frames that are ready as one chunk, and a comment after each silence."""
        yield format_sse_event(retry=RETRY_MS)
        with frames:
            while True:
                ready: list[bytes] = []
                try:
                    with move_on_after(PING_SECONDS):
                        ready.append(await frames.receive())
                    while ready:
                        ready.append(frames.receive_nowait())
                except WouldBlock:
                    pass
                except EndOfStream:
                    if not ready:
                        return
                yield b"".join(ready) or KEEPALIVE_COMMENT
                self._waiting_bytes -= sum(map(len, ready))
                self._sent.set()

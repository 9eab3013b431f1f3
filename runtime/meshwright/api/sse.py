"""Events as server-sent events: `id` is the event's seq, if any, `event` its type, `data` the event as JSON.

All events that are ready go out in one write. A client that reads slowly holds up its own stream alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from meshwright.messages import Event

RETRY_MS = 1000  # a browser waits so long before it connects again
PING_SECONDS = 15.0
CHUNK = 64  # events encoded between two looks at what else the loop has to do
MAX_CACHED_BYTES = 4 * 1024 * 1024  # frames kept for the next stream that needs them

Batches = AsyncGenerator[list[Event]]
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Streams:
    """All streams of a server: they share encoded events, and end together when the server stops."""

    def __init__(self) -> None:
        self._open: set[EventStream] = set()
        self._closed = False
        self._frames: dict[int, bytes] = {}
        self._cached_bytes = 0

    def respond(self, batches: Batches, is_last: Callable[[Event], bool] | None = None) -> EventStream:
        """Answer with events as they come, until one is the last or there are no more."""
        return EventStream(self, batches, is_last)

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
            if self._cached_bytes > MAX_CACHED_BYTES:
                self._frames.clear()
                self._cached_bytes = 0
            self._frames[seq] = frame
            self._cached_bytes += len(frame)
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

    def __init__(self, streams: Streams, batches: Batches, is_last: Callable[[Event], bool] | None) -> None:
        self._streams = streams
        self._batches = batches
        self._is_last = is_last
        self._ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reading: asyncio.Task[list[Event] | None] | None = None
        self._body = self._chunks()
        super().__init__(self._body, headers=HEADERS)

    def end(self) -> None:
        """Add nothing more, and end when what is ready has gone out."""
        if not self._ending.done():
            self._ending.set_result(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. What keeps events from being read breaks it off."""
        self._streams.opened(self)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.ended(self)
            await self._body.aclose()
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.gather(self._reading, return_exceptions=True)
            await self._batches.aclose()

    async def _chunks(self) -> AsyncGenerator[bytes]:
        yield format_sse_event(retry=RETRY_MS)
        while True:
            # A task of its own: a timeout would end the generator that it waits for.
            self._reading = self._reading or asyncio.create_task(self._read(), name="event-stream")
            waiting = {self._reading, self._ending}
            await asyncio.wait(waiting, timeout=PING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if self._reading.done():
                batch, self._reading = self._reading.result(), None
                for chunk in self._frames(batch or ()):
                    yield chunk
                if batch is None or any(map(self._ends, batch)):
                    return
            elif self._ending.done():
                return
            else:
                yield KEEPALIVE_COMMENT

    async def _read(self) -> list[Event] | None:
        return await anext(self._batches, None)

    def _frames(self, batch: Sequence[Event]) -> Iterator[bytes]:
        end = next((number for number, event in enumerate(batch, 1) if self._ends(event)), len(batch))
        for first in range(0, end, CHUNK):
            yield b"".join(map(self._streams.frame, batch[first : min(first + CHUNK, end)]))

    def _ends(self, event: Event) -> bool:
        return self._is_last is not None and self._is_last(event)

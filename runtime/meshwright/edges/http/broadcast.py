"""One reading of the log for all streams that show the same: events are read, encoded and joined once.

Its streams are woken together: at once after a pause, and while events keep coming the less often the more
streams are open, so that what all of them cost does not grow with their number. A comment then says how many
there are, so that pages ask for what changed less often too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import NamedTuple, TypeVar

from fastapi.sse import KEEPALIVE_COMMENT

from meshwright.core.errors import Draining, HostError, MeshError
from meshwright.core.events import Event

PING_SECONDS = 15.0
PIECE_BYTES = 128 * 1024  # written at a time: what a client that reads nothing makes us hold
_MAX_KEPT_BYTES = 4 * 1024 * 1024  # for streams that are slower than others
_WOKEN_AT_ONCE = 32  # streams, in one turn of the loop
_UNPACED = 4  # open streams that get each event at once
_SECONDS_PER_STREAM = 0.01  # between two writes to one, for each that is open beyond these

_Frame = tuple[int | None, bytes]
_ItemT = TypeVar("_ItemT")


async def with_pauses(
    items: AsyncGenerator[_ItemT],
    closing: asyncio.Future[None] | None = None,
    stopping: Callable[[], MeshError] = lambda: Draining("The mesh stops"),
) -> AsyncGenerator[_ItemT | None]:
    """Yields items as they come, and None after 15 s without one: proxies cut off what is silent.

    Raises what `stopping` makes once `closing` is done.
    """
    reading: asyncio.Future[_ItemT | None] | None = None
    try:
        while True:
            reading = reading or asyncio.ensure_future(anext(items, None))
            ends = {reading} if closing is None else {reading, closing}
            await asyncio.wait(ends, timeout=PING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                item, reading = reading.result(), None
                if item is None:
                    return
                yield item
            elif closing is not None and closing.done():
                raise stopping()
            else:
                yield None
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await items.aclose()


class _Chunk(NamedTuple):
    """Frames that go out in one write, and the seq of the last event that the log has of them or before."""

    frames: Sequence[_Frame]
    data: bytes
    last_seq: int

    def behind(self, position: int) -> bytes:
        """The frames that are new to a stream that has come to a position."""
        first = next((seq for seq, _ in self.frames if seq is not None), None)
        if first is None or first > position:
            return self.data
        return b"".join(frame for seq, frame in self.frames if seq is not None and seq > position)


class Broadcast:
    """The events behind a position, for any number of streams. Belongs to the event loop.

    `count` says how many streams of the log are open, these and others.
    """

    def __init__(
        self,
        position: int,
        batches: AsyncGenerator[list[Event]],
        frame: Callable[[Event], bytes],
        count: Callable[[], int],
    ) -> None:
        self.readers = 0
        self._loop = asyncio.get_running_loop()
        self._frame = frame
        self._count = count
        self._start = self._position = position
        self._chunks: deque[_Chunk] = deque()
        self._first = 0  # the number of the first chunk that is kept
        self._kept_bytes = 0
        self._pending: list[_Frame] = []
        self._pending_bytes = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ping = self._loop.call_later(PING_SECONDS, self._keep_alive)
        self._waiting: list[asyncio.Future[None]] = []
        self._has_ended = False
        self._reading = asyncio.create_task(self._read(batches), name="events: streams")

    def covers(self, position: int) -> bool:
        """Whether everything behind a position is here, or still to come."""
        return position >= self._start and not self._has_ended

    async def follow(self, position: int) -> AsyncGenerator[tuple[int, bytes]]:
        """Pieces to write, each with the position then. Ends with the reading, or behind a slow stream."""
        number = self._first + sum(chunk.last_seq <= position for chunk in self._chunks)
        while number >= self._first:
            if number - self._first == len(self._chunks):
                if self._has_ended:
                    return
                self._waiting.append(news := self._loop.create_future())
                await news
                continue
            chunk = self._chunks[number - self._first]
            number += 1
            data, position = chunk.behind(position), max(position, chunk.last_seq)
            if data:
                yield position, data

    def end(self) -> None:
        """Let the streams write what is there, and end."""
        if not self._has_ended:
            self._publish()
            self._has_ended = True
            self._ping.cancel()
            self._reading.cancel()
            self._wake(self._waiting)

    async def close(self) -> None:
        """End the reading."""
        self.end()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, batches: AsyncGenerator[list[Event]]) -> None:
        with suppress(HostError):  # each stream asks for itself then, and ends with that error
            async with aclosing(batches):
                async for batch in batches:
                    self._take(batch)
        self.end()

    def _take(self, batch: Sequence[Event]) -> None:
        frames = [(event.seq, self._frame(event)) for event in batch]
        self._pending += frames
        self._pending_bytes += sum(len(frame) for _, frame in frames)
        if self._loop.time() >= self._due or self._pending_bytes >= _MAX_KEPT_BYTES // 4:
            self._publish()
        elif self._timer is None:
            self._timer = self._loop.call_at(self._due, self._publish)

    def _publish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._pending:
            return
        count = self._count()
        count_line = b": %d streams\n\n" % count if count > _UNPACED else b""
        for frames in _pieces(self._pending):
            self._position = max([self._position, *(seq for seq, _ in frames if seq is not None)])
            self._add(_Chunk(frames, b"".join([count_line, *(frame for _, frame in frames)]), self._position))
        self._pending.clear()
        self._pending_bytes = 0
        self._due = self._loop.time() + max(0, count - _UNPACED) * _SECONDS_PER_STREAM
        self._ping.cancel()
        self._ping = self._loop.call_later(PING_SECONDS, self._keep_alive)
        self._wake(self._waiting)

    def _keep_alive(self) -> None:
        self._add(_Chunk((), KEEPALIVE_COMMENT, self._position))
        self._ping = self._loop.call_later(PING_SECONDS, self._keep_alive)
        self._wake(self._waiting)

    def _add(self, chunk: _Chunk) -> None:
        self._chunks.append(chunk)
        self._kept_bytes += len(chunk.data)
        while self._kept_bytes > _MAX_KEPT_BYTES and len(self._chunks) > 1:
            oldest = self._chunks.popleft()
            self._first += 1
            self._kept_bytes -= len(oldest.data)
            self._start = oldest.last_seq

    def _wake(self, waiting: list[asyncio.Future[None]]) -> None:
        """Wake the first of some streams, the others soon: one event for all does not hold the loop."""
        if waiting is self._waiting:
            self._waiting = []
        for news in waiting[:_WOKEN_AT_ONCE]:
            if not news.done():
                news.set_result(None)
        if rest := waiting[_WOKEN_AT_ONCE:]:
            self._loop.call_soon(self._wake, rest)


def _pieces(frames: Iterable[_Frame]) -> Iterable[Sequence[_Frame]]:
    piece: list[_Frame] = []
    size = 0
    for frame in frames:
        piece.append(frame)
        size += len(frame[1])
        if size >= PIECE_BYTES:
            yield piece
            piece = []
            size = 0
    if piece:
        yield piece

"""Tails: readers that follow the log live. None can slow the log or another reader."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from itertools import islice

from meshwright.core.encoding import Json, decode, encode
from meshwright.core.events import Event
from meshwright.engine.events.filter import EventFilter, Matcher
from meshwright.engine.events.rows import COLUMN_LIST, PAYLOAD, read_row
from meshwright.engine.events.table import MAX_BYTES_READ, Matches
from meshwright.engine.sql.database import Session

MAX_BUFFERED = 1000  # events that one tail keeps; further behind it reads the table
_MAX_BUFFERED_BYTES = 4 * 1024 * 1024  # of their payloads
MAX_UNLOGGED = 256  # buffered events above which one that no log has is dropped
_WOKEN_AT_ONCE = 32  # tails, in one turn of the loop
_SELECT_NEWS = f"""
    SELECT {COLUMN_LIST} FROM (
        SELECT *, sum(length(payload)) OVER (ORDER BY seq) - length(payload) AS bytes_before FROM events
        WHERE seq BETWEEN ? AND ? AND (topic, event_type) NOT IN (SELECT * FROM unnest(?::text[], ?::text[]))
    ) AS heard WHERE bytes_before < {MAX_BYTES_READ} ORDER BY seq
"""  # noqa: S608 code

Search = Callable[[EventFilter, int, int], Awaitable[Matches]]


class _Tail:
    """One reader: it reads the table until it has caught up, then takes what is pushed into its buffer.

    A `live` one also takes events that no log has (the pieces of a model's answer), while there is room.
    """

    def __init__(
        self, filter: EventFilter, position: int, wake_later: Callable[[_Tail], None], *, live: bool
    ) -> None:
        self.filter = filter
        self.live = live
        self.position = position  # the last seq that was given out or passed by
        self.behind = True
        self.buffer: deque[tuple[Event, int]] = deque()
        self._buffered_bytes = 0
        self._matches = Matcher(filter)
        self._wake_later = wake_later
        self._news: asyncio.Future[None] | None = None

    def wants(self, event: Event) -> bool:
        """Whether an event belongs into the buffer: while it is behind, only one that no log has."""
        return (self.live if event.seq is None else not self.behind) and self._matches(event)

    def offer(self, event: Event, size: int) -> None:
        """Take a wanted event, whose payload has `size` bytes, or fall behind if the buffer is full."""
        if len(self.buffer) < MAX_BUFFERED and self._buffered_bytes < _MAX_BUFFERED_BYTES:
            self.buffer.append((event, size))
            self._buffered_bytes += size
            self._wake_later(self)
        else:
            self.fall_behind()

    def fall_behind(self) -> None:
        logged = next((event.seq for event, _ in self.buffer if event.seq is not None), None)
        if logged is not None:
            self.position = logged - 1  # the buffer is given up, and read from the table again
        self.buffer.clear()
        self._buffered_bytes = 0
        self.behind = True
        self._wake_later(self)

    def show(self, event: Event) -> None:
        """Take a wanted event that no log has, or drop it where too much waits."""
        if len(self.buffer) < MAX_UNLOGGED:
            self.buffer.append((event, 0))
            self._wake_later(self)

    def take(self) -> list[Event]:
        events = [event for event, _ in self.buffer]
        self.buffer.clear()
        self._buffered_bytes = 0
        self.position = next((event.seq for event in reversed(events) if event.seq), self.position)
        return events

    def wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def news(self) -> None:
        self._news = asyncio.get_running_loop().create_future()
        await self._news


class Tails:
    """All open tails. Belongs to the event loop."""

    def __init__(self, search: Search) -> None:
        self.announced = 0  # the last seq known to be durable
        self._search = search
        self._closed = False
        self._by_task: dict[str | None, set[_Tail]] = {}
        self._to_wake: dict[_Tail, None] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_task.values()))

    def announce(self, events: Sequence[Event]) -> None:
        """Push events that have become durable. Any order of calls is right: a gap is read from the table."""
        if not events or (events[-1].seq or 0) <= self.announced:  # `reach` was told of them before
            return
        if events[0].seq != self.announced + 1:
            for tail in self._all():  # another process wrote between, or commits came out of order
                tail.fall_behind()
        self.announced = events[-1].seq or 0
        if self._by_task:
            for event in events:
                self._push(event)

    def reach(self, seq: int) -> None:
        """Have the tails read the table up to that event, which another process has written."""
        if seq > self.announced:
            self.announced = seq
            for tail in self._all():
                tail.fall_behind()

    def show(self, event: Event) -> None:
        """Push an event that no log has to the live tails."""
        for tail in self._wanting(event):
            tail.show(event)

    def _wanting(self, event: Event) -> list[_Tail]:
        tails = [tail for tail in self._by_task.get(event.task_id, ()) if tail.wants(event)]
        if event.task_id is not None:
            tails += [tail for tail in self._by_task.get(None, ()) if tail.wants(event)]
        return tails

    def _push(self, event: Event) -> None:
        if tails := self._wanting(event):
            payload = encode(event.payload)
            plain = event.model_copy(update={"payload": decode(payload)})  # as the table would give it
            for tail in tails:
                tail.offer(plain, len(payload))

    async def follow(
        self, filter: EventFilter, position: int, *, live: bool = False
    ) -> AsyncGenerator[list[Event]]:
        """Give the wanted events after a position, all that are ready at a time, until the tails close."""
        tail = _Tail(filter.model_copy(update={"order": "asc"}), position, self._wake_later, live=live)
        self._by_task.setdefault(filter.task_id, set()).add(tail)  # before it reads: no gap between
        try:
            while True:
                while tail.behind and tail.position < self.announced and not self._closed:
                    matches = await self._search(tail.filter, tail.position + 1, self.announced)
                    if batch := tail.take() + matches.events:  # pieces without a number came while it read
                        yield batch
                    tail.position = matches.reached
                tail.behind = False  # nothing can have been announced since the look at `announced`
                while tail.buffer:
                    yield tail.take()
                if self._closed:
                    return
                if not tail.behind:  # it may have fallen behind while its reader was slow
                    await tail.news()
        finally:
            self._forget(tail)

    def close(self) -> None:
        """End every tail once it has given out what it has read."""
        self._closed = True
        for tail in self._all():
            tail.wake()

    def _wake_later(self, tail: _Tail) -> None:
        if not self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_some)
        self._to_wake[tail] = None

    def _wake_some(self) -> None:
        """Wake the next tails: one event for all of a thousand does not hold the loop."""
        for tail in [*islice(self._to_wake, _WOKEN_AT_ONCE)]:
            del self._to_wake[tail]
            tail.wake()
        if self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _all(self) -> Iterable[_Tail]:
        return [tail for tails in self._by_task.values() for tail in tails]

    def _forget(self, tail: _Tail) -> None:
        tails = self._by_task[tail.filter.task_id]
        tails.discard(tail)
        if not tails:
            del self._by_task[tail.filter.task_id]


def read_news(session: Session, first: int, last: int, unheard: Sequence[tuple[str, str]]) -> Matches:
    """Read a part of the log on PostgreSQL, without events of some topics and types; payloads are JSON."""
    topics, types = [topic for topic, _ in unheard], [event_type for _, event_type in unheard]
    rows = session.execute(_SELECT_NEWS, (first, last, topics, types)).fetchall()
    size = sum(len(row[PAYLOAD]) for row in rows)
    return Matches(
        [read_row(row, Json) for row in rows], rows[-1][0] if size >= MAX_BYTES_READ else last, size
    )

"""What everybody may see: the events of the bus, and each task's own, as they happen.

A view, not a record: it is kept in memory for a broker that is slow or away, the newest of it only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from meshwright.edge.mqtt.connection import TOO_LARGE, Connection
from meshwright.edge.mqtt.notices import REFUSED, Notices
from meshwright.edge.mqtt.packets import Publication
from meshwright.edge.mqtt.topics import Topics
from meshwright.encoding import encode
from meshwright.messages import Event
from meshwright.topics import TASK_PROGRESS

MAX_WAITING = 4096  # events; more, and the oldest are dropped
MAX_WAITING_BYTES = 16 * 1024 * 1024  # of them, encoded
BATCH = 16  # events between two looks at what else the loop has to do


class Views:
    """Shows events at the broker, as the HTTP API streams them."""

    def __init__(self, topics: Topics, notices: Notices) -> None:
        self._topics = topics
        self._notices = notices
        self._waiting: deque[tuple[Publication, ...]] = deque()
        self._waiting_bytes = 0
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def hear(self, event: Event) -> None:
        """Take an event of the bus. It is encoded at once, so that what waits is known to the byte."""
        publications = tuple(self._publications(event))
        self._waiting.append(publications)
        self._waiting_bytes += len(publications[0].payload)
        while len(self._waiting) > MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES:
            self._take()
            self._notices.dropped(what="events", reason="more happens than the broker takes")
        if self._waiting:
            self._news.set()
            self._idle.clear()

    def _take(self) -> tuple[Publication, ...]:
        publications = self._waiting.popleft()
        self._waiting_bytes -= len(publications[0].payload)
        return publications

    async def show(self, connection: Connection) -> None:
        """Publish what waits, and what comes. Raises BrokerAway."""
        while True:
            await self._news.wait()
            for _ in range(min(BATCH, len(self._waiting))):
                for publication in self._waiting[0]:
                    if not connection.put(publication):
                        self._notices.dropped(topic=publication.topic, reason=TOO_LARGE)
                self._take()
            await connection.written()
            if not self._waiting:
                self._news.clear()
                self._idle.set()
            await asyncio.sleep(0)

    async def shown(self) -> None:
        """Wait until nothing waits."""
        await self._idle.wait()

    def _publications(self, event: Event) -> Iterator[Publication]:
        payload = encode(event)
        yield Publication(self._topics.event(event), payload, qos=0)
        if event.topic == TASK_PROGRESS and event.task_id is not None:
            yield Publication(self._topics.progress(event.tenant_id, event.task_id), payload, qos=0)
        if event.event_type == REFUSED and not event.payload["answered"]:
            yield Publication(self._topics.errors, encode(event.payload), qos=0)

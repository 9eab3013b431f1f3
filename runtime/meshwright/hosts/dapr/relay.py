"""The relay: what was committed, on its way. At least once, and what one actor sends another in order."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from pydantic_core import to_json

from meshwright.envelope import Message
from meshwright.hosts.dapr.cells import Cell
from meshwright.hosts.dapr.documents import Entry
from meshwright.hosts.dapr.grouping import Grouping
from meshwright.hosts.dapr.keeping import Keeper
from meshwright.hosts.dapr.naming import Naming
from meshwright.hosts.dapr.sidecar import BUS, Sidecar
from meshwright.messages import Event

logger = logging.getLogger("meshwright.dapr")

RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 5.0


class Publisher:
    """Sends events: each to the log, and to its topic where anybody takes messages there."""

    def __init__(
        self,
        sidecar: Sidecar,
        keeper: Keeper,
        naming: Callable[[], Naming],
        is_taken: Callable[[str], bool],
    ) -> None:
        self._sidecar = sidecar
        self._keeper = keeper
        self._naming = naming
        self._is_taken = is_taken
        self._messages: Grouping[tuple[str, Entry], None] = Grouping(self._publish)

    def add(self, entry: Entry, topic: str) -> list[asyncio.Future[None]]:
        """Queue an event; await what is returned to know it kept and taken. Raises StoreUnavailable."""
        futures = [self._keeper.keep(entry)]
        if self._is_taken(topic):
            futures.append(self._messages.add((topic, entry)))
        return futures

    def cancel(self) -> None:
        """Give up."""
        self._keeper.cancel()
        self._messages.cancel()

    async def _publish(self, group: list[tuple[str, Entry]]) -> list[BaseException | None]:
        by_topic: defaultdict[str, list[bytes]] = defaultdict(list)
        for topic, entry in group:
            by_topic[topic].append(as_cloud_event(entry))
        topics = list(by_topic)
        sent = await asyncio.gather(
            *(
                self._sidecar.publish(BUS, self._naming().topic(topic), by_topic[topic], raw=True)
                for topic in topics
            ),
            return_exceptions=True,
        )
        result_of = dict(zip(topics, sent, strict=True))
        return [result_of[topic] for topic, _ in group]


class Relay:
    """Sends the outboxes of cells, each in order, until all of it is taken."""

    def __init__(
        self,
        publisher: Publisher,
        deliver: Callable[[Message], Awaitable[None]],
        begin: Callable[[Coroutine[Any, Any, None], str], object],
        sent: Callable[[Cell], None],
    ) -> None:
        self._publisher = publisher
        self._deliver = deliver
        self._begin = begin
        self._sent = sent

    def start(self, cell: Cell) -> None:
        """Send what is in a cell's outbox, and what comes into it meanwhile."""
        if cell.outbox and not cell.relaying:
            cell.relaying = True
            self._begin(self._run(cell), "relay")

    async def _run(self, cell: Cell) -> None:
        pause = RETRY_SECONDS
        try:
            while cell.outbox:
                entries = list(cell.outbox)
                try:
                    await self._send(entries)
                except Exception as error:  # noqa: BLE001 whatever it was, what is committed has to be sent
                    logger.warning("what %s sent is tried again in %.1f s: %s", cell.ref, pause, error)
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                    pause = min(2 * pause, MAX_RETRY_SECONDS)
                    continue
                pause = RETRY_SECONDS
                sent = {id(entry) for entry in entries}
                cell.outbox = [entry for entry in cell.outbox if id(entry) not in sent]
        finally:
            cell.relaying = False
        self._sent(cell)

    async def _send(self, entries: Sequence[Entry]) -> None:
        """Events may go side by side, messages one after another, since they overtake no other."""
        published: list[asyncio.Future[None]] = []
        for entry in entries:
            if not isinstance(entry.item, Message):
                published += self._publisher.add(entry, entry.item.topic)
        failure: BaseException | None = None
        try:
            for entry in entries:
                if isinstance(entry.item, Message):
                    await self._deliver(entry.item)
        finally:
            for future in published:
                try:
                    await future
                except Exception as error:  # noqa: BLE001 all of them end before any is tried again
                    failure = failure or error
        if failure is not None:
            raise failure


def as_cloud_event(entry: Entry) -> bytes:
    """An event as a CloudEvent 1.0, with ours as its data: what any subscriber of Dapr understands.

    daprd would wrap it likewise, at twice the cost.
    """
    event = entry.item
    assert isinstance(event, Event)
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "type": event.event_type,
        "source": event.aggregate_id or "mesh",
        "datacontenttype": "application/json",
    }
    if event.traceparent is not None:
        attributes["traceparent"] = event.traceparent
    return b'%b,"data":%b}' % (to_json(attributes)[:-1], entry.data)

"""The relay: what was committed, on its way. At least once, and what one actor sends another in order."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
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
KEEP_RETRY_SECONDS = 0.5


class Publisher:
    """Gives events to the topics from which anybody takes messages."""

    def __init__(
        self, sidecar: Sidecar, naming: Callable[[], Naming], is_taken: Callable[[str], bool]
    ) -> None:
        self.is_taken = is_taken
        self._sidecar = sidecar
        self._naming = naming
        self._messages: Grouping[tuple[str, Entry], None] = Grouping(self._publish)

    def publish(self, topic: str, entry: Entry) -> asyncio.Future[None]:
        """Queue an event; what is awaited raises StoreUnavailable where the broker did not take it."""
        return self._messages.add((topic, entry))

    def cancel(self) -> None:
        """Give up."""
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
    """Sends the outboxes of cells until all of it is kept and delivered.

    Deliveries go in order, one after another. The log goes its own way: while it is away work goes on, and
    what it lacks stays in the outbox.
    """

    def __init__(
        self,
        publisher: Publisher,
        keeper: Keeper,
        deliver: Callable[[Message], Coroutine[Any, Any, None]],
        begin: Callable[[Coroutine[Any, Any, None], str], asyncio.Future[None]],
        settled: Callable[[Cell], None],
    ) -> None:
        self._publisher = publisher
        self._keeper = keeper
        self._deliver = deliver
        self._begin = begin
        self._settled = settled
        self._is_open = True

    def open(self) -> None:
        """Begin, again after `close`."""
        self._is_open = True

    def close(self) -> None:
        """Try nothing again."""
        self._is_open = False

    def start(self, cell: Cell) -> None:
        """Send what is new in a cell's outbox."""
        for entry in cell.outbox:
            if entry.is_begun:
                continue
            entry.is_begun = True
            if isinstance(entry.item, Message):
                entry.is_kept = True
                cell.to_deliver.append(entry)
            else:
                self._keep(cell, entry)
                if self._publisher.is_taken(entry.item.topic):
                    cell.to_deliver.append(entry)
                else:
                    entry.is_delivered = True
        if cell.to_deliver and not cell.relaying:
            cell.relaying = True
            self._deliver_next(cell)

    def add(self, cell: Cell, entries: Sequence[Entry]) -> None:
        """Put entries into a cell's outbox that another part sends, until they are `kept`."""
        for entry in entries:
            entry.is_begun = entry.is_delivered = True
        cell.outbox += entries

    def kept(self, cell: Cell, entry: Entry) -> None:
        """The log has an entry."""
        entry.is_kept = True
        self._ended(cell, entry)

    def _keep(self, cell: Cell, entry: Entry) -> None:
        def is_kept(kept: asyncio.Future[None]) -> None:
            if kept.cancelled() or not self._is_open:
                return
            if kept.exception() is None:
                self.kept(cell, entry)
            else:
                asyncio.get_running_loop().call_later(KEEP_RETRY_SECONDS, self._keep, cell, entry)

        if self._is_open:
            self._keeper.keep(entry).kept.add_done_callback(is_kept)

    def _deliver_next(self, cell: Cell, pause: float = RETRY_SECONDS) -> None:
        """Begin to deliver what is first in line; the next is begun when that has an end."""
        if not self._is_open:
            cell.relaying = False
            return
        item = cell.to_deliver[0].item
        if isinstance(item, Message):
            delivery = self._begin(self._deliver(item), "relay")
        else:
            delivery = self._publisher.publish(item.topic, cell.to_deliver[0])
        delivery.add_done_callback(partial(self._delivered, cell, pause))

    def _delivered(self, cell: Cell, pause: float, delivery: asyncio.Future[None]) -> None:
        if delivery.cancelled():
            cell.relaying = False
            return
        if (error := delivery.exception()) is not None:  # whatever it was, what is committed has to be sent
            logger.warning("what %s sent is tried again in %.1f s: %s", cell.ref, pause, error)
            again = min(2 * pause, MAX_RETRY_SECONDS)
            delay = pause * random.uniform(0.5, 1.0)
            asyncio.get_running_loop().call_later(delay, self._deliver_next, cell, again)
            return
        entry = cell.to_deliver.popleft()
        entry.is_delivered = True
        self._ended(cell, entry)
        if cell.to_deliver:
            self._deliver_next(cell)
        else:
            cell.relaying = False

    def _ended(self, cell: Cell, entry: Entry) -> None:
        """Leave an entry out of the next document, once it is both kept and delivered."""
        if entry.is_kept and entry.is_delivered and entry in cell.outbox:
            cell.outbox.remove(entry)
            cell.ended.append(entry.id)
            if not cell.outbox:
                self._settled(cell)


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

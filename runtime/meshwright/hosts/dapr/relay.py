"""The relay: what was committed, on its way. At least once, and what one actor sends another in order."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from meshwright.envelope import Message
from meshwright.hosts.dapr.cells import Cell
from meshwright.hosts.dapr.documents import Entry, encode_event
from meshwright.hosts.dapr.grouping import Grouping
from meshwright.hosts.dapr.naming import EVENTS, Naming
from meshwright.hosts.dapr.sidecar import BUS, Sidecar
from meshwright.messages import Event

logger = logging.getLogger("meshwright.dapr")

RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 5.0
MAX_BATCH_BYTES = 256 * 1024  # of events in one message

Outgoing = tuple[str, bytes]
"""A topic of ours, and the message for it."""


class Publisher:
    """Gives events to the broker: each to its topic where anybody takes messages there, all in batches."""

    def __init__(self, sidecar: Sidecar, sender: str, is_taken: Callable[[str], bool]) -> None:
        self._sidecar = sidecar
        self._sender = sender
        self._is_taken = is_taken
        self._naming: Naming | None = None
        self._batch_numbers = itertools.count(1)
        self._messages: Grouping[Outgoing, None] = Grouping(self._publish_messages)
        self._batches: Grouping[tuple[bytes, bool], None] = Grouping(self._publish_batch, size=256, width=1)

    def use(self, naming: Naming) -> None:
        """Say what topics are called; known once the sidecar is."""
        self._naming = naming

    def add(self, event: Event) -> list[asyncio.Future[None]]:
        """Queue an event; await what is returned to know that the broker has it. Raises StoreUnavailable."""
        data = encode_event(event)
        futures = [self._batches.add((data, True))]
        if self._is_taken(event.topic):
            futures.append(self._messages.add((event.topic, data)))
        return futures

    def pass_on(self, event: Event) -> asyncio.Future[None]:
        """Queue an event that is only shown, and not kept."""
        return self._batches.add((encode_event(event), False))

    async def settle(self) -> None:
        """Return when all that was added is with the broker, or refused."""
        await self._batches.settle()
        await self._messages.settle()

    def cancel(self) -> None:
        """Give up."""
        self._batches.cancel()
        self._messages.cancel()

    async def _publish_messages(self, group: list[Outgoing]) -> list[BaseException | None]:
        by_topic: defaultdict[str, list[bytes]] = defaultdict(list)
        for topic, data in group:
            by_topic[topic].append(data)
        assert self._naming is not None
        topics = list(by_topic)
        sent = await asyncio.gather(
            *(self._sidecar.publish(BUS, self._naming.topic(topic), by_topic[topic]) for topic in topics),
            return_exceptions=True,
        )
        result_of = dict(zip(topics, sent, strict=True))
        return [result_of[topic] for topic, _ in group]

    async def _publish_batch(self, group: list[tuple[bytes, bool]]) -> list[BaseException | None]:
        assert self._naming is not None
        for part in _parts(group):
            await self._sidecar.publish(BUS, self._naming.topic(EVENTS), [self._batch(part)])
        return [None] * len(group)

    def _batch(self, part: Sequence[tuple[bytes, bool]]) -> bytes:
        kept = b",".join(data for data, keep in part if keep)
        passing = b",".join(data for data, keep in part if not keep)
        return b'{"v":1,"from":"%b","n":%d,"events":[%b],"passing":[%b]}' % (
            self._sender.encode(),
            next(self._batch_numbers),
            kept,
            passing,
        )


class Relay:
    """Sends the outboxes of cells, each in order, until all of it is taken."""

    def __init__(
        self,
        publisher: Publisher,
        deliver: Callable[[Message], Awaitable[None]],
        begin: Callable[[Coroutine[Any, Any, None], str], object],
        sent: Callable[[Cell, Sequence[Entry]], None],
    ) -> None:
        self._publisher = publisher
        self._deliver = deliver
        self._begin = begin
        self._sent = sent

    def start(self, cell: Cell) -> None:
        """Send what is in a cell's outbox, and what comes into it meanwhile."""
        if cell.outbox and not cell.relaying:
            cell.relaying = True
            self._begin(self._run(cell), f"relay {cell.ref}")

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
                if not cell.outbox:
                    cell.relaying = False
                self._sent(cell, entries)
        finally:
            cell.relaying = False

    async def _send(self, entries: Sequence[Entry]) -> None:
        """Events may go side by side, messages one after another, since they overtake no other."""
        published = [
            future for entry in entries if isinstance(entry, Event) for future in self._publisher.add(entry)
        ]
        try:
            for entry in entries:
                if isinstance(entry, Message):
                    await self._deliver(entry)
        finally:
            results = await asyncio.gather(*published, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


def _parts(group: list[tuple[bytes, bool]]) -> list[list[tuple[bytes, bool]]]:
    """A group in parts of bounded size, in order."""
    parts: list[list[tuple[bytes, bool]]] = [[]]
    size = 0
    for item in group:
        if parts[-1] and size + len(item[0]) > MAX_BATCH_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += len(item[0])
    return parts

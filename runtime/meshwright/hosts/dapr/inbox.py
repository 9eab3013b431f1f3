"""The inbox: what the broker delivers, to the actors that take it, to the log, and to the listeners."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from pydantic_core import from_json

from meshwright import topics
from meshwright.bus import Bus
from meshwright.clock import Clock
from meshwright.envelope import Message
from meshwright.errors import HostError
from meshwright.events.logger import EventLogger
from meshwright.hosts.dapr.order import Order
from meshwright.messages import Event, new_id

logger = logging.getLogger("meshwright.dapr")

NONSENSE = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""What a document raises that has not the shape it should have; a ValidationError is a ValueError."""
MAX_QUOTED = 200  # characters of a message that is nonsense


class Inbox:
    """Takes what comes from the broker. True acks it; False asks for it again.

    Nonsense is acked, since it would come for ever, and recorded as `bus.refused`. `confirm` tells another
    process which of its batches the log has, `confirmed` hears of ours.
    """

    def __init__(
        self,
        bus: Bus,
        log: EventLogger | None,
        clock: Clock,
        sender: str,
        deliver: Callable[[Message], Awaitable[None]],
        emit: Callable[[Sequence[Event]], Awaitable[None]],
        confirm: Callable[[str, int], None],
        confirmed: Callable[[Sequence[int]], None],
    ) -> None:
        self._bus = bus
        self._logger = log
        self._clock = clock
        self._sender = sender
        self._deliver = deliver
        self._emit = emit
        self._confirm = confirm
        self._confirmed = confirmed
        self._order = Order()
        self._keepings: set[asyncio.Task[bool]] = set()

    async def take(self, topic: str, data: bytes) -> bool:
        """Take one message of the broker."""
        try:
            document = from_json(data)
            if isinstance(document, dict) and "events" in document:
                return await self._take_batch(document)
            if isinstance(document, dict) and "logged" in document:
                self._confirmed(document["logged"].get(self._sender, ()))
                return True
            event = Event.model_validate(document)
        except NONSENSE as error:
            return await self._refuse(topic, data, error)
        return await self._take_event(event)

    async def _take_batch(self, batch: dict[str, Any]) -> bool:
        """Keep and show the events of another process; ours are kept and shown where they come from."""
        sender, number = str(batch["from"]), int(batch["n"])
        if sender == self._sender:
            return True
        events = [Event.model_validate(event) for event in batch["events"]]
        passing = [Event.model_validate(event) for event in batch.get("passing", ())]
        if self._logger is None:
            self._show((*events, *passing))
            return True
        keeping = asyncio.create_task(self._keep(self._logger, sender, number, events, passing))
        self._keepings.add(keeping)
        keeping.add_done_callback(self._keepings.discard)
        # A sidecar that goes takes its calls along, and what the log has by then is shown now or never.
        return await asyncio.shield(keeping)

    async def _keep(
        self, log: EventLogger, sender: str, number: int, events: list[Event], passing: list[Event]
    ) -> bool:
        """Write a batch into the log, then show what was new to it. An empty one only takes its turn."""
        async with self._order.turn(sender, number):
            try:
                new = await log.take(events) if events else []
            except HostError as error:
                logger.warning("%d events are not in the log yet: %s", len(events), error)
                return False
        if events:
            self._confirm(sender, number)
        self._show((*new, *passing))
        return True

    def _show(self, events: Iterable[Event]) -> None:
        for event in events:
            self._bus.tell(event)

    async def _take_event(self, event: Event) -> bool:
        spread, messages = self._bus.spread([event])
        try:
            for message in messages:
                await self._deliver(message)
            if len(spread) > 1:  # what a route could not read
                await self._emit(spread[1:])
        except HostError as error:
            logger.warning("event %s is asked for again: %s", event.id, error)
            return False
        return True

    async def _refuse(self, topic: str, data: bytes, error: Exception) -> bool:
        reason = " ".join(str(error).split())[:MAX_QUOTED]
        logger.warning("a message on %s is no event, and is dropped: %s", topic, reason)
        payload = {
            "topic": topic,
            "bytes": len(data),
            "begins": data[:MAX_QUOTED].decode(errors="replace"),
            "error": reason,
        }
        refused = Event(
            id=f"bus/{new_id()}",
            event_type="bus.refused",
            topic=topics.MESH,
            time=self._clock.now(),
            aggregate_id="bus",
            payload=payload,
        )
        try:
            await self._emit([refused])
        except HostError:
            return False
        return True

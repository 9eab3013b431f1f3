"""Shipping events: each is sent to the mesh's log until the log has it.

The process that keeps the log writes its own events there itself, and shows them to the others on the bus.
Every other process sends its events over the bus in numbered batches, and sends again what the log has not
confirmed: a broker that loses something costs time, and no event.

    {"v": 1, "from": sender, "n": number, "events": [...], "passing": [...]}     a batch; `passing`: not kept
    {"logged": {sender: [number, ...]}}                                           what the log has of whom
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from pydantic_core import to_json

from meshwright.bus import Bus
from meshwright.errors import HostError
from meshwright.events.logger import EventLogger
from meshwright.messages import Event
from meshwright.stores.dapr.broker import EVENTS, LOGGED, Broker
from meshwright.stores.dapr.documents import Entry
from meshwright.stores.dapr.state import Grouping

logger = logging.getLogger("meshwright.dapr")

_MAX_BATCH_BYTES = 256 * 1024
_WINDOW_SECONDS = 0.02
_CONFIRM_SECONDS = 2.0  # within which the log confirms what it has; then it is sent again
MISSING_SECONDS = 1.5
"""How long a batch waits for those before it, which may be lost, or have arrived before this process started.

Longer than the pause after which daprd offers again what was not taken: a log that starts anew gets all that
waited for it in one heap.
"""
_MAX_SENDERS = 1000


class _PendingEvent(NamedTuple):
    """An event on its way: `offered` once the broker has it (or the log), `logged` once the log has.

    Either may raise StoreUnavailable: then it has to be shipped again.
    """

    offered: asyncio.Future[None]
    logged: asyncio.Future[None]


class EventShipper(ABC):
    """Sees to it that the log has events, and that listeners everywhere are shown them."""

    topic: str
    """Where its batches go."""
    keeps_log = False

    def __init__(self, broker: Broker, bus: Bus, sender: str) -> None:
        self._broker = broker
        self._bus = bus
        self.sender = sender
        self._numbers = itertools.count(1)
        self._batches: Grouping[tuple[Entry, bool], int] = Grouping(
            self._publish, size=256, width=1, delay_seconds=_WINDOW_SECONDS
        )

    @abstractmethod
    def ship(self, entry: Entry) -> _PendingEvent:
        """Begin to ship an event to the log."""

    @abstractmethod
    async def take_batch(self, sender: str, number: int, events: list[Event], passing: list[Event]) -> bool:
        """Take a batch of another process; whether it may be acknowledged."""

    @abstractmethod
    def take_confirmation(self, logged: Mapping[str, Sequence[int]]) -> None:
        """The log has these batches, by sender."""

    def show(self, entry: Entry) -> None:
        """Show an event to the listeners of other processes, at most once."""
        self._batches.add((entry, False)).add_done_callback(_look_at)

    def cancel(self) -> None:
        """Give up, as a crash would."""
        self._batches.cancel()

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            self._bus.tell(event)

    async def _publish(self, group: list[tuple[Entry, bool]]) -> list[int | BaseException]:
        """Publish events in numbered batches, one after another; the result of each event is its number."""
        numbers: list[int | BaseException] = []
        for part in _parts(group):
            number = next(self._numbers)
            kept = b",".join([entry.data for entry, is_kept in part if is_kept])
            passing = b",".join([entry.data for entry, is_kept in part if not is_kept])
            head = (self.sender.encode(), number)
            body = b'{"v":1,"from":"%b","n":%d,"events":[%b],"passing":[%b]}' % (*head, kept, passing)
            await self._broker.publish_raw(self.topic, body)
            numbers += [number] * len(part)
        return numbers


class LocalShipper(EventShipper):
    """For the process that keeps the log."""

    topic = LOGGED
    keeps_log = True

    def __init__(self, broker: Broker, bus: Bus, sender: str, log: EventLogger) -> None:
        super().__init__(broker, bus, sender)
        self._log = log
        self._order = Order()
        self._taking: set[asyncio.Task[bool]] = set()
        self._writes: Grouping[Entry, None] = Grouping(self._write, size=512, width=1)
        self._confirmations: Grouping[tuple[str, int], None] = Grouping(self._confirm, size=256, width=1)

    def ship(self, entry: Entry) -> _PendingEvent:
        """Write an event into the log, then show it here and elsewhere."""
        written = self._writes.add(entry)
        return _PendingEvent(written, written)

    async def take_batch(self, sender: str, number: int, events: list[Event], passing: list[Event]) -> bool:
        """Write a batch of another process into the log, and show what was new to it."""
        taking = asyncio.create_task(self._take(sender, number, events, passing))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        # A sidecar that dies takes its calls along, and what the log has by then is shown now or never.
        return await asyncio.shield(taking)

    def take_confirmation(self, logged: Mapping[str, Sequence[int]]) -> None:
        """Those of this process come from itself."""

    def cancel(self) -> None:
        """Give up."""
        super().cancel()
        self._writes.cancel()
        self._confirmations.cancel()

    async def _take(self, sender: str, number: int, events: list[Event], passing: list[Event]) -> bool:
        """An empty batch only takes its turn."""
        async with self._order.turn(sender, number):
            try:
                new = await self._log.take(events) if events else []
            except HostError as error:
                logger.warning("%d events are not in the log yet: %s", len(events), error)
                return False
        if events:
            self._confirmations.add((sender, number)).add_done_callback(_look_at)
        self._tell((*new, *passing))
        return True

    async def _write(self, group: list[Entry]) -> list[BaseException | None]:
        events = [entry.item for entry in group if isinstance(entry.item, Event)]
        new = {id(event) for event in await self._log.take(events)}
        for entry in group:
            if isinstance(entry.item, Event) and id(entry.item) in new:
                self._bus.tell(entry.item)
                self._batches.add((entry, True)).add_done_callback(_look_at)
        return [None] * len(group)

    async def _confirm(self, group: list[tuple[str, int]]) -> list[BaseException | None]:
        logged: defaultdict[str, list[int]] = defaultdict(list)
        for sender, number in group:
            logged[sender].append(number)
        with suppress(HostError):  # the batch comes again, and is confirmed again
            await self._broker.publish_raw(LOGGED, to_json({"logged": logged}))
        return [None] * len(group)


class RemoteShipper(EventShipper):
    """For a process whose events another process logs: sends them until that one confirms."""

    topic = EVENTS

    def __init__(self, broker: Broker, bus: Bus, sender: str) -> None:
        super().__init__(broker, bus, sender)
        self._unconfirmed: dict[int, list[tuple[Entry, _PendingEvent]]] = {}
        self._early: set[int] = set()
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def ship(self, entry: Entry) -> _PendingEvent:
        """Send an event until the log has it."""
        loop = asyncio.get_running_loop()
        pending = _PendingEvent(loop.create_future(), loop.create_future())
        self._send(entry, pending)
        return pending

    async def take_batch(self, sender: str, number: int, events: list[Event], passing: list[Event]) -> bool:
        """Show the events of another process."""
        self._tell((*events, *passing))
        return True

    def take_confirmation(self, logged: Mapping[str, Sequence[int]]) -> None:
        """The log has these batches."""
        loop = asyncio.get_running_loop()
        for number in logged.get(self.sender, ()):
            self._end_timer(number)
            batch = self._unconfirmed.pop(number, None)
            if batch is None:
                self._early.add(number)
                loop.call_later(_CONFIRM_SECONDS, self._early.discard, number)
            for _, pending in batch or ():
                _settle(pending.logged)

    def cancel(self) -> None:
        """Give up."""
        for number in list(self._timers):
            self._end_timer(number)
        for batch in self._unconfirmed.values():
            for _, pending in batch:
                pending.logged.cancel()
        super().cancel()

    def _send(self, entry: Entry, pending: _PendingEvent) -> None:
        self._batches.add((entry, True)).add_done_callback(lambda sent: self._sent(entry, pending, sent))

    def _sent(self, entry: Entry, pending: _PendingEvent, sent: asyncio.Future[int]) -> None:
        """The broker has it, and it is shown here; or it has not, and whoever waits is told."""
        if sent.cancelled():
            pending.offered.cancel()
            pending.logged.cancel()
        elif (error := sent.exception()) is not None:
            for future in pending:
                if not future.done():
                    future.set_exception(error)
                    future.exception()
        else:
            if not entry.is_shown and isinstance(entry.item, Event):
                entry.is_shown = True
                self._bus.tell(entry.item)
            _settle(pending.offered)
            self._await_confirmation(entry, pending, sent.result())

    def _await_confirmation(self, entry: Entry, pending: _PendingEvent, number: int) -> None:
        if number in self._early:  # confirmed before the sidecar had answered
            _settle(pending.logged)
            return
        if number not in self._unconfirmed:
            self._unconfirmed[number] = []
            loop = asyncio.get_running_loop()
            self._timers[number] = loop.call_later(_CONFIRM_SECONDS, self._send_again, number)
        self._unconfirmed[number].append((entry, pending))

    def _send_again(self, number: int) -> None:
        self._end_timer(number)
        for entry, pending in self._unconfirmed.pop(number, ()):
            self._send(entry, pending)

    def _end_timer(self, number: int) -> None:
        timer = self._timers.pop(number, None)
        if timer is not None:
            timer.cancel()


class Order:
    """Lets the numbered batches of each sender, which count from 1, through one after another.

    A broker's client hands messages over side by side, a log has them in order.
    """

    def __init__(self) -> None:
        self._next: OrderedDict[str, int] = OrderedDict()
        self._waiting: defaultdict[str, list[int]] = defaultdict(list)
        self._moved = asyncio.Condition()

    @asynccontextmanager
    async def turn(self, sender: str, number: int) -> AsyncIterator[None]:
        """Wait until the batches before this one are done, for a bounded time; those after it wait for it."""
        waiting = self._waiting[sender]
        waiting.append(number)
        try:
            while not await self._is_next(sender, number):
                if number == min(waiting):  # those before it do not come
                    break
            yield
        finally:
            waiting.remove(number)
            if not waiting:
                self._waiting.pop(sender, None)
            async with self._moved:
                self._next[sender] = max(self._next.get(sender, 1), number + 1)
                self._next.move_to_end(sender)
                while len(self._next) > _MAX_SENDERS:
                    self._next.popitem(last=False)
                self._moved.notify_all()

    async def _is_next(self, sender: str, number: int) -> bool:
        """Whether all before it have passed, or do so in time."""
        try:
            async with asyncio.timeout(MISSING_SECONDS), self._moved:
                await self._moved.wait_for(lambda: self._next.get(sender, 1) >= number)
        except TimeoutError:
            return False
        return True


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _look_at(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.debug("an event was not shown to other processes: %s", error)


def _parts(group: list[tuple[Entry, bool]]) -> list[list[tuple[Entry, bool]]]:
    """A group in parts of bounded size, in order."""
    parts: list[list[tuple[Entry, bool]]] = [[]]
    size = 0
    for item in group:
        if parts[-1] and size + len(item[0].data) > _MAX_BATCH_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += len(item[0].data)
    return parts

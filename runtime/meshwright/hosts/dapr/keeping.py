"""Keeping events: each on its way to the mesh's log, until the log has it.

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
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from pydantic_core import to_json

from meshwright.bus import Bus
from meshwright.errors import HostError
from meshwright.events.logger import EventLogger
from meshwright.hosts.dapr.documents import Entry
from meshwright.hosts.dapr.grouping import Grouping
from meshwright.hosts.dapr.naming import LOGGED, Naming
from meshwright.hosts.dapr.sidecar import BUS, Sidecar
from meshwright.messages import Event

logger = logging.getLogger("meshwright.dapr")

MAX_BATCH_BYTES = 256 * 1024
WINDOW_SECONDS = 0.02
CONFIRM_SECONDS = 2.0  # within which the log confirms what it has; then it is sent again


class Keeping(NamedTuple):
    """An event on its way to the log: `offered` once the broker has it (or the log), `kept` once the log has.

    Either may raise StoreUnavailable: then it has to be begun again.
    """

    offered: asyncio.Future[None]
    kept: asyncio.Future[None]


class Keeper(Protocol):
    """Sees to it that the log has events, and that whoever looks on is shown them."""

    def keep(self, entry: Entry) -> Keeping:
        """Begin to keep an event."""
        ...

    def show(self, entry: Entry) -> None:
        """Show an event to the listeners of other processes, at most once."""
        ...

    def cancel(self) -> None:
        """Give up, as a crash would."""
        ...


Batch = list[tuple[Entry, Keeping]]


class Batches:
    """Publishes events in numbered batches, one after another; the result of each event is its number."""

    def __init__(self, sidecar: Sidecar, sender: str, naming: Callable[[], Naming], topic: str) -> None:
        self._sidecar = sidecar
        self._sender = sender
        self._naming = naming
        self._topic = topic
        self._numbers = itertools.count(1)
        self._group: Grouping[tuple[Entry, bool], int] = Grouping(
            self._publish, size=256, width=1, delay_seconds=WINDOW_SECONDS
        )

    def add(self, entry: Entry, *, keep: bool) -> asyncio.Future[int]:
        """Queue an event. Raises StoreUnavailable (from what is awaited) where the broker did not take it."""
        return self._group.add((entry, keep))

    def cancel(self) -> None:
        """Give up."""
        self._group.cancel()

    async def _publish(self, group: list[tuple[Entry, bool]]) -> list[int | BaseException]:
        numbers: list[int | BaseException] = []
        for part in _parts(group):
            number = next(self._numbers)
            kept = b",".join([entry.data for entry, keep in part if keep])
            passing = b",".join([entry.data for entry, keep in part if not keep])
            head = (self._sender.encode(), number)
            body = b'{"v":1,"from":"%b","n":%d,"events":[%b],"passing":[%b]}' % (*head, kept, passing)
            await self._sidecar.publish(BUS, self._naming().topic(self._topic), [body], raw=True)
            numbers += [number] * len(part)
        return numbers


class OwnLog:
    """For the process that keeps the log."""

    def __init__(self, log: EventLogger, bus: Bus, batches: Batches) -> None:
        self._log = log
        self._bus = bus
        self._batches = batches
        self._writes: Grouping[Entry, None] = Grouping(self._write, size=512, width=1)

    def keep(self, entry: Entry) -> Keeping:
        """Write an event into the log, then show it here and elsewhere."""
        kept = self._writes.add(entry)
        return Keeping(kept, kept)

    def show(self, entry: Entry) -> None:
        """Show an event to the others."""
        self._batches.add(entry, keep=False).add_done_callback(_looked_at)

    def cancel(self) -> None:
        """Give up."""
        self._writes.cancel()
        self._batches.cancel()

    async def _write(self, group: list[Entry]) -> list[BaseException | None]:
        events = [entry.item for entry in group if isinstance(entry.item, Event)]
        new = {id(event) for event in await self._log.take(events)}
        for entry in group:
            if id(entry.item) in new and isinstance(entry.item, Event):
                self._bus.tell(entry.item)
                self._batches.add(entry, keep=True).add_done_callback(_looked_at)
        return [None] * len(group)


class RemoteLog:
    """For a process whose events are kept by another: sends them until that one confirms."""

    def __init__(self, bus: Bus, batches: Batches) -> None:
        self._bus = bus
        self._batches = batches
        self._unconfirmed: dict[int, Batch] = {}
        self._early: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, entry: Entry) -> Keeping:
        """Send an event until the log has it."""
        loop = asyncio.get_running_loop()
        keeping = Keeping(loop.create_future(), loop.create_future())
        self._send(entry, keeping)
        return keeping

    def show(self, entry: Entry) -> None:
        """Show an event to the others."""
        self._batches.add(entry, keep=False).add_done_callback(_looked_at)

    def confirm(self, numbers: Sequence[int]) -> None:
        """The log has these batches of ours."""
        for number in numbers:
            batch = self._unconfirmed.pop(number, None)
            if batch is None:
                self._early.add(number)
            for _, keeping in batch or ():
                _settle(keeping.kept)

    def cancel(self) -> None:
        """Give up."""
        for task in self._tasks:
            task.cancel()
        for batch in self._unconfirmed.values():
            for _, keeping in batch:
                keeping.kept.cancel()
        self._batches.cancel()

    def _send(self, entry: Entry, keeping: Keeping) -> None:
        self._batches.add(entry, keep=True).add_done_callback(lambda sent: self._sent(entry, keeping, sent))

    def _sent(self, entry: Entry, keeping: Keeping, sent: asyncio.Future[int]) -> None:
        """The broker has it, and it is shown here; or it has not, and whoever waits is told."""
        if sent.cancelled():
            keeping.offered.cancel()
            keeping.kept.cancel()
        elif (error := sent.exception()) is not None:
            for future in keeping:
                if not future.done():
                    future.set_exception(error)
                    future.exception()
        else:
            self._show_here(entry)
            _settle(keeping.offered)
            self._await_confirmation(entry, keeping, sent.result())

    def _show_here(self, entry: Entry) -> None:
        if not entry.is_shown and isinstance(entry.item, Event):
            entry.is_shown = True
            self._bus.tell(entry.item)

    def _await_confirmation(self, entry: Entry, keeping: Keeping, number: int) -> None:
        if number in self._early:  # confirmed before the sidecar had answered
            _settle(keeping.kept)
            return
        if number not in self._unconfirmed:
            self._unconfirmed[number] = []
            task = asyncio.create_task(self._send_again(number), name="unconfirmed events")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._unconfirmed[number].append((entry, keeping))

    async def _send_again(self, number: int) -> None:
        await asyncio.sleep(CONFIRM_SECONDS)
        self._early.discard(number)
        for entry, keeping in self._unconfirmed.pop(number, ()):
            self._send(entry, keeping)


class Confirmation(NamedTuple):
    """A batch that the log has: of which sender, and its number there."""

    sender: str
    number: int


class Confirmations:
    """Tells other processes which of their batches the log has."""

    def __init__(self, sidecar: Sidecar, naming: Callable[[], Naming]) -> None:
        self._sidecar = sidecar
        self._naming = naming
        self._group: Grouping[Confirmation, None] = Grouping(self._publish, size=256, width=1)

    def add(self, sender: str, number: int) -> None:
        """Confirm a batch; should that be lost, the batch comes again and is confirmed again."""
        self._group.add(Confirmation(sender, number)).add_done_callback(_looked_at)

    def cancel(self) -> None:
        """Give up."""
        self._group.cancel()

    async def _publish(self, group: list[Confirmation]) -> list[BaseException | None]:
        logged: defaultdict[str, list[int]] = defaultdict(list)
        for sender, number in group:
            logged[sender].append(number)
        with suppress(HostError):  # it comes again
            body = to_json({"logged": logged})
            await self._sidecar.publish(BUS, self._naming().topic(LOGGED), [body], raw=True)
        return [None] * len(group)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _looked_at(future: asyncio.Future[Any]) -> None:
    """See what came of it: nobody waits for it."""
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.debug("an event was not shown to other processes: %s", error)


def _parts(group: list[tuple[Entry, bool]]) -> list[list[tuple[Entry, bool]]]:
    """A group in parts of bounded size, in order."""
    parts: list[list[tuple[Entry, bool]]] = [[]]
    size = 0
    for item in group:
        if parts[-1] and size + len(item[0].data) > MAX_BATCH_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += len(item[0].data)
    return parts

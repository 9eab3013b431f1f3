"""Outboxes: what turns sent, on its way. At least once, and what one actor sends another in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from meshwright.core.errors import Draining, MailboxFull, MeshError
from meshwright.core.events import Event
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.engine.kernel.store import Delivery, Receiver
from meshwright.engine.stores.dapr.broker import Broker, EventShipper
from meshwright.engine.stores.dapr.documents import Document, OutboxEntry
from meshwright.engine.stores.dapr.sidecar import CALL, DELIVER, Sidecar, decode_reply
from meshwright.engine.stores.dapr.state import growing_pause

if TYPE_CHECKING:
    from meshwright.engine.stores.dapr.watches import WatchList

_logger = logging.getLogger("meshwright.dapr")

_MAX_WAITING = 20_000
_MAX_ENDED = 64
_MISSING_SECONDS = 5.0  # between tries to find a process that runs a type
MAX_CARRIED = 32  # entries of another worker's that a document carries; of more all are sent once more


@dataclass(slots=True, eq=False)
class StoredActor:
    """An actor that is active here, as the store has it.

    `document` is None until it is read, or where a write left open what the store has; `etag` is that of the
    document. `outbox` holds what is not logged or not delivered yet, in order, and `to_deliver` what of it is
    to be delivered; `ended_ids` name the last entries that are both. `carried`: entries that another live
    worker still has to send. They stay in the document in case it dies. `is_fresh`: it was read, and nothing
    was committed since.
    """

    ref: ActorRef
    document: Document | None = None
    etag: str | None = None
    outbox: list[OutboxEntry] = field(default_factory=list)
    carried: list[OutboxEntry] = field(default_factory=list)
    to_deliver: deque[OutboxEntry] = field(default_factory=deque)
    ended_ids: deque[str] = field(default_factory=lambda: deque(maxlen=_MAX_ENDED))
    is_fresh: bool = False
    is_committing: bool = False
    is_relaying: bool = False
    is_trying: bool = False
    is_evicted: bool = False
    used_at: float = 0.0

    @property
    def has_obligations(self) -> bool:
        """Whether the actor itself waits for something: work, or its alarm."""
        record = self.document.record if self.document is not None else None
        return record is not None and (record.has_pending_work or record.wake_at is not None)

    @property
    def is_owed(self) -> bool:
        """Whether it has to be woken if this worker goes."""
        return bool(self.outbox or self.carried or self.has_obligations)

    @property
    def only_carries(self) -> bool:
        """Whether all that the actor is owed is what other workers have to send."""
        return bool(self.carried) and not (self.outbox or self.document is None or self.has_obligations)

    def forget(self) -> None:
        """Read the document again before the next commit."""
        self.document = self.etag = None
        self.is_fresh = False


class StoredActors:
    """The actors that are active here, the alarms of those on the watch list, and that list."""

    def __init__(self) -> None:
        self.watch: WatchList | None = None
        self.alarms: dict[ActorRef, datetime] = {}
        self._actors: dict[ActorRef, StoredActor] = {}

    def __iter__(self) -> Iterator[StoredActor]:
        return iter(list(self._actors.values()))

    def active(self, ref: ActorRef) -> StoredActor | None:
        """An actor that is active."""
        return self._actors.get(ref)

    def find(self, ref: ActorRef) -> StoredActor:
        """An actor, made active if need be."""
        actor = self._actors.get(ref)
        if actor is None:
            actor = self._actors[ref] = StoredActor(ref)
        actor.is_evicted = False
        return actor

    def adopt(self, actor: StoredActor, document: Document, etag: str | None) -> None:
        """Go on with a document that was read or written."""
        actor.document, actor.etag = document, etag
        actor.used_at = asyncio.get_running_loop().time()
        if document.record.wake_at is None:
            self.alarms.pop(actor.ref, None)
        else:
            self.alarms[actor.ref] = document.record.wake_at

    def evict(self, actor: StoredActor) -> None:
        """Drop an actor, or as soon as it has nothing to send."""
        actor.is_evicted = True
        is_busy = actor.to_deliver or actor.is_committing or actor.is_trying
        if not is_busy and all(entry.waits for entry in actor.outbox):  # those are stored, and reviewed
            self._actors.pop(actor.ref, None)

    def settled(self, actor: StoredActor) -> None:
        """Strike an actor off the watch list if it is owed nothing any more."""
        if not actor.is_committing and actor.document is not None and not actor.is_owed:
            self.let_go(actor.ref)
        if actor.is_evicted:
            self.evict(actor)

    def let_go(self, ref: ActorRef) -> None:
        """Strike an actor off the watch list: it is owed nothing, or another worker watches it."""
        self.alarms.pop(ref, None)
        if self.watch is not None:
            self.watch.disarm(ref)


class Outbox:
    """Sends what actors and this process have to send, until all of it is logged and delivered.

    The messages of an actor are delivered in order, one after another. The log goes its own way: while it is
    away work goes on, and what it lacks stays in the outbox of the actor.
    """

    def __init__(
        self,
        receiver: Receiver,
        sidecar: Sidecar,
        broker: Broker,
        log: EventLog | None,
        actors: StoredActors,
        *,
        log_is_shared: bool,
    ) -> None:
        self.shipper = EventShipper(broker, receiver.bus, log, self._logged, is_shared=log_is_shared)
        self._receiver = receiver
        self._sidecar = sidecar
        self._broker = broker
        self._actors = actors
        self._is_open = True
        self._calls: set[asyncio.Task[None]] = set()
        self._missing_until: dict[str, float] = {}  # types that were tried, and when they are again
        self._waiting = 0

    def close(self) -> None:
        """Try nothing again."""
        self._is_open = False
        for call in self._calls:
            call.cancel()
        self.shipper.cancel()

    @property
    def is_sending(self) -> bool:
        """Whether messages, or events that no turn made, have not arrived."""
        return bool(self._waiting) or any(actor.to_deliver for actor in self._actors)

    @property
    def is_logging(self) -> bool:
        """Whether the log lacks events of turns."""
        return any(actor.outbox for actor in self._actors)

    # Of actors

    def send(self, actor: StoredActor) -> None:
        """Send new entries of an actor's outbox; let go of the actor if there are none."""
        if not actor.outbox:
            self._actors.settled(actor)
            return
        events: list[OutboxEntry] = []
        for entry in actor.outbox:
            if entry.is_started:
                continue
            entry.owner = actor
            if isinstance(entry.item, Message) and self.is_missing(entry.item.to.type):
                entry.is_logged = entry.waits = True  # the log takes events alone
                continue
            entry.is_started = True
            if isinstance(entry.item, Message):
                entry.is_logged = True
            else:
                events.append(entry)
                entry.is_delivered = not self._broker.takes(entry.item)
            if not entry.is_delivered:
                actor.to_deliver.append(entry)
        self.shipper.ship(events)
        if actor.to_deliver and not actor.is_relaying:
            actor.is_relaying = True
            self._deliver_next(actor, 0)
        if not actor.is_trying and any(entry.waits for entry in actor.outbox):
            actor.is_trying = True
            self._begin(self._deliver_waiting(actor), "waiting messages")

    def deliver(self, message: Message) -> asyncio.Future[Any]:
        """Give a message that may arrive again to its actor."""
        if message.to.type not in self._receiver.kinds:
            return self._begin(self._deliver_elsewhere(message), "relay")
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            self._receiver.admit(message.to)
        except Exception as error:  # noqa: BLE001 waiting callers get every error
            reply.set_exception(error)
        else:
            self._receiver.deliver(Delivery(message, remember=True, reply=reply))
        return reply

    async def _deliver_elsewhere(self, message: Message) -> None:
        decode_reply(await self._sidecar.invoke(message.to, DELIVER, message.encode()))

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    def is_missing(self, kind: str) -> bool:
        """Whether it is not known which process runs a type: messages to it wait, and are tried apart."""
        return kind not in self._receiver.kinds and kind not in self._receiver.remote_kinds

    async def call(self, message: Message) -> Any:
        """Call an actor of another app; the reply is plain data."""
        return decode_reply(await self._sidecar.invoke(message.to, CALL, message.encode()))

    def _deliver_next(self, actor: StoredActor, failures: int) -> None:
        """Begin to deliver the first in line; the next begins when that has ended."""
        if not self._is_open:
            actor.is_relaying = False
            return
        entry = actor.to_deliver[0]
        delivery = (
            self.deliver(entry.item) if isinstance(entry.item, Message) else self._broker.publish(entry)
        )
        delivery.add_done_callback(partial(self._delivered, actor, failures))

    def _delivered(self, actor: StoredActor, failures: int, delivery: asyncio.Future[Any]) -> None:
        if delivery.cancelled():
            actor.is_relaying = False
            return
        if (error := delivery.exception()) is not None:  # whatever it was, what is committed has to be sent
            pause = growing_pause(failures + 1)
            _logger.warning("what %s sent is tried again in %.1f s: %s", actor.ref, pause, error)
            asyncio.get_running_loop().call_later(pause, self._deliver_next, actor, failures + 1)
            return
        entry = actor.to_deliver.popleft()
        entry.is_delivered = True
        self._ended(entry)
        if actor.to_deliver:
            self._deliver_next(actor, 0)
        else:
            actor.is_relaying = False

    async def _deliver_waiting(self, actor: StoredActor) -> None:
        """Try the messages that wait, in order, apart from the others: daprd takes seconds to fail."""
        try:
            for entry in [entry for entry in actor.outbox if entry.waits]:
                assert isinstance(entry.item, Message)
                kind, now = entry.item.to.type, asyncio.get_running_loop().time()
                if self._missing_until.get(kind, now) > now:
                    continue
                self._missing_until[kind] = now + _MISSING_SECONDS
                try:
                    await self._deliver_elsewhere(entry.item)
                except MeshError as error:
                    _logger.debug("%s waits: %s", entry.item.title, error)
                else:
                    self._missing_until.pop(kind, None)  # another actor's delivery may have done so
                    entry.is_delivered, entry.waits = True, False
                    self._ended(entry)
        finally:
            actor.is_trying = False
            self._actors.settled(actor)

    def _logged(self, entry: OutboxEntry) -> None:
        entry.is_logged = True
        self._ended(entry)

    def _ended(self, entry: OutboxEntry) -> None:
        """Leave an entry out of the next document, once it is both logged and delivered."""
        actor: StoredActor | None = entry.owner
        if actor is not None and entry.is_logged and entry.is_delivered and entry in actor.outbox:
            actor.outbox.remove(entry)
            actor.ended_ids.append(entry.item.id)  # the stored document has it until the next commit
            if not actor.outbox:
                self._actors.settled(actor)

    # Of this process

    async def emit(self, events: Sequence[Event], actor: StoredActor | None = None) -> None:
        """Publish events that no turn made; return when the broker has them, or the log where it is here.

        Events of a record belong to an `actor`: with its next document they outlive this worker. Events that
        the broker does not have when this is closed are lost. Raises MailboxFull.
        """
        if self._waiting + len(events) > _MAX_WAITING:
            raise MailboxFull(f"{self._waiting} events wait for the broker", remedy="see that it is up")
        incarnation = self._receiver.incarnation
        entries = [
            OutboxEntry(event, incarnation, is_started=True, is_delivered=True, owner=actor)
            for event in events
        ]
        if actor is not None:
            actor.outbox += entries
        messages = [
            entry for entry in entries if isinstance(entry.item, Event) and self._broker.takes(entry.item)
        ]
        self._waiting += len(entries)
        try:
            sending = [*map(self.shipper.shipped, entries), *map(self._broker.publish, messages)]
            await asyncio.wait(sending)
        finally:
            self._waiting -= len(entries)
        if any(future.cancelled() for future in sending):
            raise Draining("the mesh has stopped", remedy="ask again under the same id when it is up")

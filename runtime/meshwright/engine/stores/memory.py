"""A store in memory, for tests: bytes by key, that several runtimes may share, and faults on request."""

from __future__ import annotations

import asyncio
import copy
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from pydantic_core import from_json

from meshwright.core.encoding import encode
from meshwright.core.errors import Conflict
from meshwright.core.events import Event
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message, Record
from meshwright.engine.kernel.guarantees import RECORD_GAP
from meshwright.engine.kernel.store import AlreadyTaken, Batch, Delivery, Receiver, SharedStore, Takeover
from meshwright.engine.sql.database import Database

_ChoiceT = TypeVar("_ChoiceT")


class Faults:
    """Misfortunes that a store in memory brings about; each is a probability from 0 to 1, per occasion.

    `duplicate`: a message is delivered a second time, later.
    `delay`: a message is held back, for up to `max_delay_passes` passes of the event loop.
    `reorder`: a message overtakes messages of other pairs. Messages from one sender to one receiver keep
    their order; a message that names no sender is a pair of its own.
    `conflict`: a commit fails as if another worker's had come first.
    `lose`: what an event is to a subscriber is lost on its way, as by a broker that dies. Once all that it
    has is delivered, actors with pending work get a `redrive` turn. Plain subscribers do not notice.
    `restart`: after a turn, the worker is as after a crash: the turn's signals are lost, every actor is
    loaded again, and those with pending work get `recover` under a new incarnation. Messages, calls,
    listeners and work under way go on. It happens at most `max_restarts` times, so that recovering comes to
    an end.

    The same seed draws the same chances as long as everything happens in the same order.
    """

    def __init__(
        self,
        seed: int | str = 0,
        *,
        duplicate: float = 0.0,
        delay: float = 0.0,
        max_delay_passes: int = 20,
        reorder: float = 0.0,
        conflict: float = 0.0,
        lose: float = 0.0,
        restart: float = 0.0,
        max_restarts: int = 20,
    ) -> None:
        self._chance = random.Random(seed)
        self._duplicate = duplicate
        self._delay = delay
        self._max_delay_passes = max_delay_passes
        self._reorder = reorder
        self._conflict = conflict
        self._lose = lose
        self._restart = restart
        self._restarts_left = max_restarts

    @property
    def may_lose(self) -> bool:
        """Whether anything may be lost."""
        return self._lose > 0

    @property
    def disturbs_mail(self) -> bool:
        """Whether messages may arrive twice, late, or in another order."""
        return max(self._duplicate, self._delay, self._reorder) > 0

    def duplicates(self) -> bool:
        """Whether to deliver this message twice."""
        return self._strikes(self._duplicate)

    def loses(self) -> bool:
        """Whether to lose what an event is to this subscriber."""
        return self._strikes(self._lose)

    def conflicts(self) -> bool:
        """Whether this commit comes too late."""
        return self._strikes(self._conflict)

    def delay_passes(self) -> int:
        """For how many passes of the event loop to hold this message back."""
        return self._chance.randint(1, self._max_delay_passes) if self._strikes(self._delay) else 0

    def choose_next(self, waiting: Iterator[_ChoiceT]) -> _ChoiceT | None:
        """The candidate that comes next: the first, or any. None if there is none."""
        if not self._strikes(self._reorder):
            return next(waiting, None)
        candidates = list(waiting)
        return self._chance.choice(candidates) if candidates else None

    def restarts(self) -> bool:
        """Whether the worker restarts after this turn."""
        if not self._restarts_left or not self._strikes(self._restart):
            return False
        self._restarts_left -= 1
        return True

    def _strikes(self, probability: float) -> bool:
        return probability > 0 and self._chance.random() < probability


@dataclass(slots=True, eq=False)
class _HeldDelivery:
    delivery: Delivery
    until_pass: int


class DisturbedMail:
    """The messages on their way to one actor: held back, doubled and reordered as faults will have it."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._held: list[_HeldDelivery] = []
        self._passes = 0

    def __len__(self) -> int:
        return len(self._held)

    def put(self, delivery: Delivery) -> None:
        """Add a message, and perhaps a copy of it."""
        for _ in range(2 if self._faults.duplicates() else 1):
            self._held.append(_HeldDelivery(delivery, self._passes + self._faults.delay_passes()))

    def take(self) -> Delivery | None:
        """The next message, or None in a pass in which every one is held back."""
        self._passes += 1
        entry = self._faults.choose_next(self._ready())
        if entry is None:
            return None
        self._held.remove(entry)
        return entry.delivery

    def _ready(self) -> Iterator[_HeldDelivery]:
        """The candidates: of each pair the oldest alone, so that no message overtakes its own kind."""
        pairs: set[str] = set()
        for entry in self._held:
            message = entry.delivery.message
            pair = message.sender or message.id
            if pair not in pairs and entry.until_pass < self._passes:
                yield entry
            pairs.add(pair)


_Stream = tuple[ActorRef, str]


class MemoryData:
    """The data that outlives a crash. `running` has the runtimes that share it, by their incarnations."""

    def __init__(self) -> None:
        self.running: dict[str, Receiver] = {}
        self.actors: dict[ActorRef, bytes] = {}
        self.mail: dict[int, tuple[bytes, bool]] = {}
        self.records: dict[_Stream, dict[int, bytes]] = {}
        self.events: dict[str, bytes] = {}
        self.unlogged: list[str] = []
        self.last_number = 0

    def copy(self) -> MemoryData:
        """Returns the data committed at this moment, without a running process."""
        twin = MemoryData()
        twin.__dict__.update(copy.deepcopy({**self.__dict__, "running": {}}))
        return twin

    def record(self, ref: ActorRef) -> ActorRecord | None:
        """The record of an actor."""
        data = self.actors.get(ref)
        return ActorRecord.decode(data) if data is not None else None

    def pending(self) -> list[ActorRef]:
        """The actors with pending work."""
        return [ref for ref, data in self.actors.items() if ActorRecord.decode(data).has_pending_work]

    def check(self, batch: Batch) -> None:
        """Raise Conflict or AlreadyTaken where others were there before."""
        missing_numbers = [number for number in batch.taken_numbers if number not in self.mail]
        if missing_numbers:
            raise AlreadyTaken(missing_numbers)
        for ref, expected in batch.expected.items():
            stored = self.record(ref)
            if (stored.revision if stored else 0) != expected:
                raise Conflict(f"{ref} is not at revision {expected} any more")
        if batch.ahead and any(Message.decode(data).to in batch.ahead for data, _ in self.mail.values()):
            raise Conflict("a message waits for an actor that took a later one")

    def knows(self, item: Record | str | None) -> bool:
        """Whether a record is written, or an event of an id is known."""
        if isinstance(item, Record):
            return item.n in self.records.get((item.ref, item.stream), {})
        return item in self.events

    def apply(self, batch: Batch) -> None:
        """Write a batch. It is encoded first: what cannot be leaves nothing behind."""
        actors = {ref: record.encode() for ref, record in batch.actors.items()}
        mail = [(delivery.message.encode(), delivery.remember) for delivery in batch.messages]
        records = [(record, encode(record.value)) for record in batch.records]
        events = {event.id: event.encode() for event in batch.events}
        self.actors |= actors
        for number in batch.taken_numbers:
            del self.mail[number]
        for record, value in records:
            self.records.setdefault((record.ref, record.stream), {}).setdefault(record.n, value)
        self.unlogged += [event_id for event_id in events if event_id not in self.events]
        for event_id, data in events.items():
            self.events.setdefault(event_id, data)
        for item, delivery in zip(mail, batch.messages, strict=True):
            self.last_number += 1
            self.mail[self.last_number] = item
            delivery.number = self.last_number


class InMemoryStore(SharedStore):
    """Keeps everything in memory.

    `log` gets every event before its subscribers do; its `database`, if given, is opened and closed with
    the store, but not by a crash. `faults` brings about what may go wrong.
    """

    name = "memory"

    def __init__(
        self,
        data: MemoryData | None = None,
        *,
        log: EventLog | None = None,
        database: Database | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.data = data or MemoryData()
        self._log = log
        self._database = database
        self._faults = faults or Faults()
        self.routes_events = self._faults.may_lose
        self.joins_actors = not self.routes_events
        self._is_logging = False
        self._logging = asyncio.Lock()
        self._mail: dict[ActorRef, DisturbedMail] = {}
        self._lost = False
        self._incarnation = ""
        self._receiver: Receiver | None = None

    async def open(self, receiver: Receiver) -> None:
        """Open the log's database, unless a crash left it open."""
        self._receiver = receiver
        if self._database is not None and self._log is not None and not self._is_logging:
            await self._database.open()
            await self._log.start()
            self._is_logging = True

    async def begin(self, incarnation: str) -> Takeover:
        """Deliver messages that were not taken. A runtime that goes on has them still."""
        assert self._receiver is not None
        goes_on = self.data.running.pop(self._incarnation, None) is not None
        self.data.running[incarnation] = self._receiver
        self._incarnation = incarnation
        await self._tell()
        self._lost = self._faults.may_lose
        asyncio.get_running_loop().call_soon(self._redrive)
        return Takeover([] if goes_on else self._mail_here(), self.data.pending())

    def _mail_here(self) -> list[Delivery]:
        """The messages that were not taken, to actors of the types that run here."""
        mail = self.data.mail.items()
        messages = [Delivery(Message.decode(data), n, remember) for n, (data, remember) in mail]
        assert self._receiver is not None
        return [delivery for delivery in messages if delivery.message.to.type in self._receiver.kinds]

    async def close(self, *, abrupt: bool = False) -> None:
        """Give the lease back, and close the database."""
        self.data.running.pop(self._incarnation, None)
        self._receiver = None
        self._mail.clear()
        if self._is_logging and not abrupt and self._log is not None and self._database is not None:
            self._is_logging = False
            self._log.close()
            await self._database.close()

    async def load(self, ref: ActorRef, first: Message | None) -> ActorRecord | None:
        """The record of an actor."""
        return self.data.record(ref)

    async def commit(self, batch: Batch) -> None:
        """Write a batch, tell its events, and deliver its messages."""
        receiver = self._receiver
        if receiver is None:
            raise Conflict("the store is closed")
        if batch.unless is not None and self.data.knows(batch.unless):
            return
        self.data.check(batch)
        if batch.actors and self._faults.conflicts():
            raise Conflict("another worker came first, by chance")
        if self.routes_events:
            self._route(receiver, batch)
        self.data.apply(batch)
        if batch.actors and self._faults.restarts():
            receiver.lease_lost(tell_worker=False)
        await self._tell()
        self._deliver(batch.messages)
        self._redrive()

    async def records(self, ref: ActorRef, stream: str, first: int, last: int | None) -> list[Record]:
        """The records of a stream from one number to another; without `last`, up to a gap too long."""
        stored = self.data.records.get((ref, stream), {})
        page: list[Record] = []
        empty = 0
        for n in itertools.count(first) if last is None else range(first, last + 1):
            empty = 0 if n in stored else empty + 1
            if n in stored:
                page.append(Record(ref, stream, n, from_json(stored[n])))
            elif last is None and empty == RECORD_GAP:
                break
        return page

    async def delete_records(self, streams: Mapping[ActorRef, Sequence[str]]) -> None:
        """Delete whole streams of actors."""
        for ref, names in streams.items():
            for name in names:
                self.data.records.pop((ref, name), None)

    async def delete_actors(self, revisions: Mapping[ActorRef, int]) -> set[ActorRef]:
        """Delete the records of actors."""
        records_of = {ref: self.data.record(ref) for ref in revisions}
        deleted_refs = {
            ref for ref, record in records_of.items() if record and record.revision == revisions[ref]
        }
        for ref in deleted_refs:
            del self.data.actors[ref]
        return deleted_refs

    def alarms(self, until: datetime) -> Iterable[tuple[ActorRef, datetime]]:
        """The alarms of all actors: an alarm that others ring too finds nothing to do."""
        for ref in list(self.data.actors):
            record = self.data.record(ref)
            if record is not None and record.wake_at is not None and record.wake_at <= until:
                yield ref, record.wake_at

    async def has_expired(self, incarnation: str) -> bool:
        """Whether no process runs under that name."""
        return incarnation not in self.data.running

    def broadcast(self, event: Event) -> None:
        """Show an event to the listeners of every runtime on the data."""
        for receiver in list(self.data.running.values()):
            receiver.bus.notify(event)

    # Events

    async def _tell(self) -> None:
        """Return when every event committed so far is in the log and was shown to the listeners."""
        if not self.data.unlogged:
            return
        async with self._logging:
            events = [
                Event.model_validate_json(self.data.events[event_id]) for event_id in self.data.unlogged
            ]
            new = await self._log.append(events) if self._log is not None and events else events
            logged_ids = {event.id for event in events}
            self.data.unlogged = [event_id for event_id in self.data.unlogged if event_id not in logged_ids]
            for event in new:
                self.broadcast(event)

    def _route(self, receiver: Receiver, batch: Batch) -> None:
        """Be the broker of a batch's events, which may lose what it is to deliver."""
        batch.events, messages = receiver.bus.spread(batch.events)
        arriving = [Delivery(message) for message in messages if not self._faults.loses()]
        self._lost = self._lost or len(arriving) < len(messages)
        batch.messages += arriving

    # Messages

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        if self._receiver is None:
            return  # it crashed meanwhile: they wait for the next start
        for delivery in deliveries:
            arriving = Delivery(Message.decode(delivery.message.encode()), delivery.number, delivery.remember)
            kind = arriving.message.to.type
            if kind not in self._receiver.kinds:  # another runtime has it, or it waits
                able = [other for other in self.data.running.values() if kind in other.kinds]
                for other in able[:1]:
                    other.deliver(arriving)
            elif self._faults.disturbs_mail:
                self._disturb(arriving)
            else:
                self._receiver.deliver(arriving)

    def _disturb(self, delivery: Delivery) -> None:
        ref = delivery.message.to
        if ref not in self._mail:
            self._mail[ref] = DisturbedMail(self._faults)
            asyncio.get_running_loop().call_soon(self._pass, ref)
        self._mail[ref].put(delivery)

    def _pass(self, ref: ActorRef) -> None:
        """Let one message to an actor arrive, or none."""
        mail = self._mail.get(ref)
        if mail is None or self._receiver is None:
            return
        delivery = mail.take()
        if delivery is not None:
            self._receiver.deliver(delivery)
        if mail:
            asyncio.get_running_loop().call_soon(self._pass, ref)
        else:
            del self._mail[ref]

    def _redrive(self) -> None:
        """Once all that the broker has is delivered, have asked for what it lost."""
        if self._lost and self._receiver is not None and not self._mail_here():
            self._lost = False
            self._receiver.wake(self.data.pending(), "redrive")

"""The store on Dapr: one compare-and-swap of an actor's document commits its turns, and what they send.

A turn runs in the process where its message lands. Topics are shared by the replicas of a worker, so that is
where the work is spread; an actor whose kind runs elsewhere is called through Dapr, whose placement finds it.
Nothing leaves before the commit is durable and the actor is on a watch list that outlives this process.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from meshwright.core.clock import Clock, SystemClock
from meshwright.core.errors import ConfigError, Conflict, HostError, StoreUnavailable
from meshwright.core.events import Event
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.table import BLOCK_EVENTS
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message, Record
from meshwright.engine.kernel.store import Batch, Receiver, SharedStore, Takeover
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.folder import make_private
from meshwright.engine.stores.dapr.broker import Broker
from meshwright.engine.stores.dapr.callbacks import AppCallbacks
from meshwright.engine.stores.dapr.channels import Channel, choose, make_channel
from meshwright.engine.stores.dapr.documents import Document, Documents, OutboxEntry, parse_incarnation
from meshwright.engine.stores.dapr.outbox import Outbox, StoredActor, StoredActors
from meshwright.engine.stores.dapr.recovery import Recovery
from meshwright.engine.stores.dapr.sidecar import BUS, STATE, VIEWS, Options, Sidecar, Write
from meshwright.engine.stores.dapr.state import State, WorkerLease
from meshwright.engine.stores.dapr.watches import Watches, WatchList

_logger = logging.getLogger("meshwright.dapr")

_DRAIN_SECONDS = 10.0
_LOG_SECONDS = 2.0  # that a stop waits for a log that is away
_POLL_SECONDS = 0.005
_LOG_LOOK_SECONDS = 1.0
_ACTORS_POLL_SECONDS = 0.02


class DaprStore(SharedStore):
    """Keeps actors behind one sidecar. One process `keeps_log`, the mesh's; other logs stay empty.

    `database` is opened by `open` and closed by `close`; where it is shared, every process writes the log in
    it. `taken_elsewhere` are patterns of topics from which
    other apps take messages, in addition to the topics of this one.
    """

    name = "dapr"
    has_broker = True
    deletes_actors = False
    routes_events = True
    forwards = True

    def __init__(
        self,
        options: Options,
        *,
        clock: Clock | None = None,
        log: EventLog | None = None,
        database: Database | None = None,
        keeps_log: bool = True,
        taken_elsewhere: Sequence[str] = (),
    ) -> None:
        self.options = options
        self._clock = clock or SystemClock()
        self._log = log
        self._database = database
        self._shares_log = database is not None and not database.exclusive
        self._keeps_log = keeps_log or self._shares_log
        self._taken_elsewhere = taken_elsewhere
        self._receiver: Receiver | None = None
        self._is_open = False
        self._channel: Channel | None = None
        self._following: list[asyncio.Task[None]] = []
        self._has_predecessor = self._is_serving = False
        self._commits = itertools.count(1)
        self._seems_new: dict[tuple[str, str], bool] = {}
        self._contested: set[ActorRef] = set()
        self._returns: dict[tuple[str, str], TypeAdapter[Any]] = {}

    def assemble(self, receiver: Receiver) -> None:
        """Make the parts in the order of their dependencies; nothing is opened yet."""
        options, clock = self.options, self._clock
        self._receiver = receiver
        self.actors = StoredActors()
        self.sidecar = Sidecar(options.grpc_port, options.api_token)
        self.state = State(self.sidecar, options.namespace, patience_seconds=options.patience_seconds)
        self.documents = Documents(self.state)
        self.lease = WorkerLease(options, self.state, self.sidecar, receiver.lease_lost)
        self.watches = Watches(self.state, self.lease, options.app_id)
        self.broker = Broker(self.sidecar, options, receiver.bus, self._taken_elsewhere)
        log = self._log if self._keeps_log else None
        if log is not None and not self._shares_log:
            log.max_late_events = BLOCK_EVENTS
        self.outbox = Outbox(
            receiver, self.sidecar, self.broker, log, self.actors, log_is_shared=self._shares_log
        )
        self.recovery = Recovery(
            options, receiver, self.documents, self.lease, self.watches, self.actors, self.outbox
        )
        self.callbacks = AppCallbacks(options, receiver, self.broker, self.outbox, clock)

    # Lifetime

    async def open(self, receiver: Receiver) -> None:
        """Meet the sidecar, and let it call us."""
        self.assemble(receiver)
        self._is_open, self._is_serving = True, False
        try:
            if self._database is not None:
                if self._shares_log:
                    await asyncio.to_thread(make_private, self._database.folder)
                await self._database.open()
            if self._log is not None:
                await self._log.start()
            self.sidecar.connect()
            facts = await self.sidecar.wait_until_ready(self.options.ready_seconds)
            if missing := {STATE, BUS, VIEWS} - facts.components.keys():
                raise ConfigError(
                    f"the sidecar has no component named {', '.join(sorted(missing))}",
                    remedy="start daprd with the files of components/ as its --resources-path; its log names "
                    "a file that it cannot read",
                    field="components",
                )
            self.broker.is_mqtt = "mqtt" in facts.components[BUS]
            self.callbacks.subscribe()
            self._channel = make_channel(
                choose(facts.version) if self.options.channel == "auto" else self.options.channel,
                app_port=self.options.app_port,
                sidecar_port=self.options.grpc_port,
                api_token=self.options.api_token,
                app_token=self.options.app_token,
            )
            await self._channel.listen(self.callbacks)
            await self.state.probe()
        except BaseException:  # a cancelled start too must leave nothing open
            await self.close()
            raise

    async def begin(self, incarnation: str) -> Takeover:
        """Take a lease and open a watch list. The first sweep finds the work that others left behind."""
        self.callbacks.opened.clear()
        await self.recovery.stop()
        await self._end_list(StoreUnavailable("the worker has started again"))
        for actor in self.actors:
            actor.forget()
        self._has_predecessor = await self.lease.succeed(self.options.replica, incarnation)
        await self._note_emptied(has_lost=not self._has_predecessor)
        await self.lease.take(incarnation)
        await self.watches.add(incarnation)  # a list that is known, and has no lease, is adopted
        self.actors.watch = WatchList(self.state, incarnation, self._live.lease_lost)
        self.callbacks.opened.set()
        if self._is_serving:
            self.recovery.start()
        return Takeover()

    async def ready(self) -> None:
        """Accept actor calls and kept messages, see that the broker delivers, and wake open actors."""
        assert self._channel is not None
        if self._live.kinds:
            await self._channel.serve_actors()
            async with asyncio.timeout(self.options.ready_seconds):
                while not (await self.sidecar.facts()).actors_ready:  # noqa: ASYNC110 daprd has no signal for it
                    await asyncio.sleep(_ACTORS_POLL_SECONDS)
        if self._has_predecessor:  # for whom the broker may have kept something
            await self.broker.kick()
        if not await self.broker.prove(self.callbacks.examples):
            if await self.broker.lacks_shared_subscriptions():
                raise ConfigError(
                    "the broker has no shared subscriptions ($share) for MQTT 3.1.1, by which each message "
                    "goes to one worker: every message would wait to be sent again",
                    remedy="use --bus redis, or a broker that has them, such as Mosquitto, HiveMQ or Artemis",
                    field="broker_url",
                )
            _logger.warning("the broker does not deliver yet: what is sent meanwhile is sent again later")
        self._is_serving = True
        self.recovery.start()
        self._following = [asyncio.create_task(self._follow_sidecar(), name="sidecar")]
        if self._log is not None and self._shares_log:
            self._following.append(asyncio.create_task(_follow_log(self._log), name="log"))

    async def drain(self) -> None:
        """Accept nothing new, and send messages on their way."""
        await self._stop_serving()
        await _until(lambda: not self.outbox.is_sending, _DRAIN_SECONDS)

    async def close(self, *, abrupt: bool = False) -> None:
        """Release the lease. Open work stays on the list for the next worker."""
        if not self._is_open:
            return
        await self._stop_serving()
        self.callbacks.opened.clear()
        if not abrupt:
            await _until(lambda: not self.outbox.is_logging, _LOG_SECONDS)
        self.outbox.close()
        self.broker.cancel()
        watch = self.actors.watch
        # Other workers read every list that is known: an empty one need not be.
        if watch is not None and not len(watch) and not abrupt:
            try:
                await self.watches.remove(watch.incarnation)
            except HostError as error:
                _logger.warning("the watch list stays open until the next worker closes it: %s", error)
        await self._end_list(StoreUnavailable("the worker has stopped"), give_back=not abrupt)
        self.state.cancel(StoreUnavailable("the mesh is not running"))
        await self.sidecar.close()
        if self._log is not None:
            self._log.close()
        if self._database is not None:
            await self._database.close()
        self._is_open = False

    async def _note_emptied(self, *, has_lost: bool) -> None:
        """Note where the state store lacks its mark, which it never forgets; unless it had none yet."""
        mark = Write(self.state.key("mark"), b'{"v":1}')
        if await self.state.read(mark.key) is not None:
            return
        try:
            await self.sidecar.save([mark])
        except StoreUnavailable:  # so daprd says that another worker was first, which notes it then
            if await self.state.read(mark.key) is None:
                raise
            return
        if has_lost and self._log is not None:
            await self._log.note_emptied()

    async def _end_list(self, reason: HostError, *, give_back: bool = False) -> None:
        watch, self.actors.watch = self.actors.watch, None
        if watch is not None:
            watch.close(reason)
        await self.lease.stop(give_back=give_back and watch is not None)

    async def _stop_serving(self) -> None:
        await self.recovery.stop()
        for following in self._following:
            following.cancel()
            await asyncio.wait([following])
        self._following = []
        if self._channel is not None:
            await self._channel.stop()
            self._channel = None

    async def _follow_sidecar(self) -> None:
        """A sidecar that was away has missed what the broker kept for it."""
        while True:
            await self.sidecar.has_come_back()
            _logger.info("the sidecar is back")
            try:
                await self.sidecar.wait_until_ready(self.options.ready_seconds)
                await self._note_emptied(has_lost=True)
                await self.broker.prove(self.callbacks.examples)  # it has subscribed again
                await self.broker.kick()
            except HostError as error:
                _logger.warning("what the broker kept may come late: %s", error)

    # Reads

    async def load(self, ref: ActorRef, first: Message | None) -> ActorRecord | None:
        """The record of an actor; not read if the last actor that such a message activated was new."""
        if first is None:
            return await self.documents.record(ref)
        actor = self.actors.find(ref)
        kind = self._live.kinds[ref.type]
        is_new = kind.is_stateless or self._seems_new.get((ref.type, first.method), False)
        # A right guess saves a read for each new task, a wrong one ends in a Conflict.
        if is_new and actor.document is None and not actor.outbox and ref not in self._contested:
            actor.is_fresh = False
            self.actors.adopt(actor, Document(), None)
            return None
        self._contested.discard(ref)
        document = await self.recovery.load(actor)
        self._seems_new[ref.type, first.method] = actor.etag is None
        return document.record if actor.etag is not None else None

    async def records(self, ref: ActorRef, stream: str, first: int, last: int | None) -> list[Record]:
        """The records of a stream. Messages that another worker had to publish with them are published
        again."""
        stored_records = await self.documents.records(ref, stream, first, last)
        own = self._live.incarnation
        events = [
            event
            for stored in stored_records
            if parse_incarnation(stored.by) != own
            for event in stored.events
        ]
        if events and ref.type in self._live.kinds:  # else the reader does not take the work over
            await self.outbox.emit(events)
        return [stored.record for stored in stored_records]

    async def delete_records(self, streams: Mapping[ActorRef, Sequence[str]]) -> None:
        """Delete whole streams of actors."""
        for ref, names in streams.items():
            for name in names:
                await self.documents.delete_records(ref, name)

    def alarms(self, until: datetime) -> Iterable[tuple[ActorRef, datetime]]:
        """The alarms of actors on this worker's watch list."""
        alarms = self.actors.alarms
        return [(ref, wake_at) for ref, wake_at in alarms.items() if wake_at <= until]

    async def has_expired(self, incarnation: str) -> bool:
        """Whether a worker's lease has expired, or it said goodbye. Unknown counts as not."""
        return await self.lease.has_expired(incarnation)

    def evict(self, refs: Iterable[ActorRef]) -> None:
        """Drop actors that have nothing to send, the others as soon as they have not."""
        for actor in filter(None, map(self.actors.active, refs)):
            self.actors.evict(actor)

    # Writes

    async def commit(self, batch: Batch) -> None:
        """Write the effects of turns of one actor, or messages, events and records from outside."""
        if batch.actors or batch.expected:
            for ref, revision in batch.expected.items():
                await self._commit_actor(ref, revision, batch)
            return
        if batch.records:
            await self._append(batch.records[0], batch.events)
        elif batch.events:
            await self.outbox.emit(batch.events)
        for delivery in batch.messages:
            await self.outbox.deliver(delivery.message)

    async def publish_raw(self, topic: str, body: bytes) -> None:
        """Publish a message for other programs, as it is. Raises StoreUnavailable."""
        await self.sidecar.publish(BUS, topic, [body])

    def broadcast(self, event: Event) -> None:
        """Show an event to the listeners here and elsewhere."""
        self._live.bus.notify(event)
        if self.callbacks.opened.is_set():
            self.outbox.shipper.show(OutboxEntry(event.sealed(mend=True)))

    async def forward(self, message: Message) -> Any:
        """Call an actor of another app; the reply has the shape that the turn declares."""
        key = message.to.type, message.method
        if key not in self._returns:
            method = self._live.remote_kinds[message.to.type].methods.get(message.method)
            hint = get_type_hints(method.call).get("return", Any) if method else Any
            self._returns[key] = TypeAdapter(hint)
        return self._returns[key].validate_python(await self.outbox.call(message))

    async def _append(self, record: Record, events: Sequence[Event]) -> None:
        """Write a record, then publish its events. A record already there has published its own."""
        actor = self.actors.find(record.ref) if record.ref.type in self._live.kinds else None
        try:
            await self.documents.put(record, events, self._commit_name(self._live.incarnation))
        except Conflict:
            return
        if events:
            await self.outbox.emit(events, actor)

    async def _commit_actor(self, ref: ActorRef, revision: int, batch: Batch) -> None:
        actor = self.actors.find(ref)
        try:
            if actor.document is None:  # the last write left open what the store has
                await self.recovery.load(actor)
            assert actor.document is not None
            if actor.document.record.revision != revision:
                raise Conflict(f"{ref} was changed by another worker")
            actor.is_committing = True
            if ref in batch.actors:
                await self._swap(actor, actor.document, batch.actors[ref], batch)
            else:
                await self._check_unchanged(actor)
        except BaseException as error:  # passed on; what the write came to is read before the next one
            actor.forget()
            if isinstance(error, Conflict):
                self._contested.add(ref)  # it is not guessed to be new before it was read
            raise
        finally:
            actor.is_committing = False
        if ref not in batch.actors and batch.events:
            await self.outbox.emit(batch.events)

    async def _swap(self, actor: StoredActor, before: Document, record: ActorRecord, batch: Batch) -> None:
        """Records first, then the document, with the actor on the watch list beside it.

        The commit has the name of that list: while the worker begins a new incarnation, what it does is still
        the old one's, whose list others adopt.
        """
        watch = self._watch()
        name = self._commit_name(watch.incarnation)
        writes = [self.documents.put(record, (), name, of_turn=True) for record in batch.records]
        in_the_way: list[tuple[Record, str]] = []
        for stream_record, write in zip(batch.records, writes, strict=True):
            try:
                await write
            except Conflict:  # there was one of that number
                etag = await self.documents.left_by(stream_record, (name, *before.by))
                in_the_way += [(stream_record, etag)] if etag is not None else []
        if in_the_way:
            await self._replace(actor, before, in_the_way, name)
        entries = _in_order(batch, watch.incarnation)
        outbox = [*actor.carried, *actor.outbox, *entries]
        document = Document(record, outbox, (name, *before.by[:3]))
        # Beside the document, since each takes a round trip; the commit counts once both are durable.
        armed = watch.arm(actor.ref) if document.is_owed else None
        etag = await self.documents.swap(actor.ref, document, actor.etag)
        if armed is not None:
            await _watched(actor.ref, armed)
        if document.is_owed and watch is not self.actors.watch:  # it may have been adopted before the write
            await self._arm(actor.ref)
        document.outbox = []  # `actor.outbox` has them from here on
        actor.is_fresh = False
        actor.outbox += entries
        self.actors.adopt(actor, document, etag)
        if etag is None:  # the store does not count its etags: they are read before the next commit
            actor.forget()
        actor.is_committing = False
        self.outbox.send(actor)

    async def _replace(
        self, actor: StoredActor, before: Document, records: Sequence[tuple[Record, str]], commit: str
    ) -> None:
        """Write records of a commit over the records of turns that lost their commit. Raises Conflict.

        The document is written as it was, so that a turn which knows an older version cannot do so too; a
        turn that knows this version writes over the same versions of the records.
        """
        name = self._commit_name(parse_incarnation(commit))
        outbox = [*actor.carried, *actor.outbox]
        fence = Document(before.record, outbox, (name, *before.by[:3]))
        etag = await self.documents.swap(actor.ref, fence, actor.etag)
        if etag is None:
            stored, etag = await self.documents.read(actor.ref)
            if stored.by[:1] != (name,):
                raise Conflict(f"{actor.ref} was changed by another worker")
        actor.etag = etag
        for write in [
            self.documents.put(record, (), commit, of_turn=True, etag=version) for record, version in records
        ]:
            await write

    async def _check_unchanged(self, actor: StoredActor) -> None:
        """Check that the stored record was not changed since; watch and send what it still owes."""
        if not actor.is_fresh:
            if await self.documents.etag(actor.ref) != actor.etag:
                raise Conflict(f"{actor.ref} was changed by another worker")
            return
        if actor.is_owed:
            await self._arm(actor.ref)
            self.outbox.send(actor)
        actor.is_fresh = False

    # Small parts

    @property
    def _live(self) -> Receiver:
        assert self._receiver is not None, "open comes first"
        return self._receiver

    def _watch(self) -> WatchList:
        watch = self.actors.watch
        if watch is None:
            raise StoreUnavailable("This worker could not renew its lease in time, and restarts")
        return watch

    async def _arm(self, ref: ActorRef) -> None:
        armed = self._watch().arm(ref)
        if armed is not None:
            await _watched(ref, armed)

    def _commit_name(self, incarnation: str) -> str:
        return f"{incarnation}/{next(self._commits)}"


async def _follow_log(log: EventLog) -> None:
    """Events that another process has written are shown when it announces them; the announcement may get
    lost."""
    while True:
        await asyncio.sleep(_LOG_LOOK_SECONDS)
        with suppress(HostError):
            await log.catch_up()


async def _watched(ref: ActorRef, armed: asyncio.Future[None]) -> None:
    try:
        await armed
    except Conflict as error:
        raise StoreUnavailable(f"{ref} is not watched: {error}") from error


def _in_order(batch: Batch, by: str) -> list[OutboxEntry]:
    """Yields messages and events in the order in which turns sent them; refused messages come last."""
    entries = [OutboxEntry(item, by) for item in (*(sent.message for sent in batch.messages), *batch.events)]
    if not batch.messages:
        return entries

    def number(entry: OutboxEntry) -> int:
        digits = entry.item.id.rpartition("/")[2]
        return int(digits) if digits.isdecimal() else 1 << 62

    return sorted(entries, key=number)


async def _until(holds: Callable[[], bool], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not holds():  # noqa: ASYNC110 only a stop waits
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        _logger.warning("what is under way after %g s goes on at the next start", seconds)

"""The Dapr host: the same actors over daprd, a state store, a message broker, placement and scheduler.

A turn runs in the process where its message lands, and one compare-and-swap of the actor's document
commits it: its state, and what it sends. Topics are shared by the replicas of a worker, so that is where
the work is spread; an actor whose kind lives elsewhere is called through Dapr, whose placement finds it.
Nothing leaves before the commit is durable and the actor is on a watch list that outlives this process.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from meshwright import topics
from meshwright.bus import Bus
from meshwright.clock import Clock, SystemClock
from meshwright.envelope import ActorRef, Message, Record
from meshwright.errors import Conflict, Draining, HostError, MailboxFull, NotFound, StoreFailed
from meshwright.events.log import EventLog
from meshwright.events.logger import EventLogger
from meshwright.host import Listener, Signals, Subscription, dead_letter
from meshwright.hosts.dapr.alarms import Alarms
from meshwright.hosts.dapr.cells import Cell, Cells, Delivery, Documents
from meshwright.hosts.dapr.channels.port import Route
from meshwright.hosts.dapr.channels.replies import CALL, DELIVER
from meshwright.hosts.dapr.documents import Entry
from meshwright.hosts.dapr.executor import ENDED, Executor, Tells, looked_at, pass_on, refuse, settle
from meshwright.hosts.dapr.inbox import Inbox
from meshwright.hosts.dapr.keeping import Batches, Confirmations, Keeper, OwnLog, RemoteLog
from meshwright.hosts.dapr.link import Link
from meshwright.hosts.dapr.naming import EVENTS, Naming
from meshwright.hosts.dapr.options import Options
from meshwright.hosts.dapr.ping import example_of
from meshwright.hosts.dapr.relay import Publisher, Relay
from meshwright.hosts.dapr.sidecar import BUS, VIEWS
from meshwright.messages import Event, new_id
from meshwright.storage.database import Database
from meshwright.tracing import NoTracing, Tracing
from meshwright.turns import ActorKind, require_json

logger = logging.getLogger("meshwright.dapr")

IDLE_SECONDS = 60.0
RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 5.0
DRAIN_SECONDS = 10.0
TWIN_SECONDS = 1.0
DRAIN_LOOK_SECONDS = 0.005
MAX_EMITTED = 20_000  # events of this process that may wait for the broker
LOG_GROUP = "event-logger"


class DaprHost:
    """Runs actors over one sidecar. One process `keeps_log`, the mesh's; that of another stays empty.

    `database` is opened by `start` and closed by `stop`.

    `taken_elsewhere` are patterns of topics from which other apps take messages, besides those that this
    one subscribes to. `max_mailbox` bounds what may wait for one actor before calls and sends are refused.
    """

    name = "dapr"

    def __init__(
        self,
        options: Options,
        *,
        clock: Clock | None = None,
        log: EventLog | None = None,
        database: Database | None = None,
        keeps_log: bool = True,
        tracing: Tracing | NoTracing | None = None,
        taken_elsewhere: Sequence[str] = (),
        max_mailbox: int = 1000,
        max_active: int = 5000,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.incarnation = new_id()
        self.on_failure: Callable[[StoreFailed], None] = lambda error: None
        self.options = options
        self._log = log if keeps_log else None
        self._own_log = log
        self._database = database
        self._max_mailbox = max_mailbox
        self._bus = Bus()
        self._taken_elsewhere = [topics.matcher(pattern) for pattern in taken_elsewhere]
        self._subscriptions: list[Subscription] = []
        self._worker: Signals | None = None
        self._cells = Cells(max_active)
        self._elsewhere: dict[str, ActorKind] = {}
        sender = new_id()
        self._link = Link(options, self, sender)
        self._documents = Documents(self._link.state)
        tells = Tells(self._signal, self._set_alarm, self._send, self._emit)
        self._executor = Executor(
            self._link.state, self._documents, self.clock, tracing or NoTracing(), tells, self._commit_name
        )
        event_logger = EventLogger(log) if log is not None and keeps_log else None
        batches = Batches(self._link.sidecar, sender, self._naming)
        self._confirmations = Confirmations(self._link.sidecar, self._naming)
        remote = RemoteLog(self._bus, batches)
        self._keeper: Keeper = OwnLog(event_logger, self._bus, batches) if event_logger else remote
        self._publisher = Publisher(self._link.sidecar, self._keeper, self._naming, self._is_taken)
        self._relay = Relay(self._publisher, self._deliver, self._begin, self._settled)
        self._inbox = Inbox(
            self._bus,
            event_logger,
            self.clock,
            sender,
            self._deliver,
            self._emit,
            self._confirmations.add,
            remote.confirm,
        )
        self._taking: dict[bytes, asyncio.Future[bool]] = {}
        self._alarms = Alarms(self.clock, self._ring)
        self._tasks: set[asyncio.Task[None]] = set()
        self._emitted = 0
        self._commits = itertools.count(1)
        self._calls = itertools.count(1)
        self._open = asyncio.Event()
        self._draining = False
        self._publishes = True

    # The port: what is known before the start

    def register(self, kind: ActorKind) -> None:
        """Make a type of actor known that lives here."""
        if kind.type in self._cells.kinds:
            raise ValueError(f"actor type {kind.type!r} is registered already")
        self._cells.kinds[kind.type] = kind

    def know(self, kind: ActorKind) -> None:
        """Make a type of actor known that lives in another app, so that it can be called and read."""
        self._elsewhere[kind.type] = kind

    def subscribe(self, subscription: Subscription) -> None:
        """Send the events of a pattern to actors; the replicas of this app share them."""
        self._subscriptions.append(subscription)
        self._bus.subscribe(subscription)

    def listen(self, pattern: str, listener: Listener) -> Callable[[], None]:
        """Call back for each event that the broker has from now on; the result ends it."""
        return self._bus.listen(pattern, listener)

    def attach(self, worker: Signals) -> None:
        """Give the signals of turns to this worker."""
        self._worker = worker

    # Lifetime

    async def start(self) -> None:
        """Meet the sidecar, take a lease, and begin. Raises StoreUnavailable, ConfigError, ServiceFailed."""
        self._draining, self._publishes = False, True
        if self._database is not None:
            await self._database.open()
        if self._own_log is not None:
            await self._own_log.start()
        try:
            await self._link.open()
            self._executor.watch = self._link.watch
            self._open.set()
            await self._link.serve()
        except BaseException:  # a cancelled start too must leave nothing open
            await self._close()
            raise
        self._begin(self._trim(), "idle actors")

    async def stop(self) -> None:
        """Take nothing new, let what is under way commit and be sent, give the lease back. Idempotent."""
        if not self._open.is_set():
            return
        self._draining = True
        self._alarms.clear()
        await self._link.drain()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._emitted or not all(cell.idle for cell in self._cells):  # noqa: ASYNC110 only a stop waits
                    await asyncio.sleep(DRAIN_LOOK_SECONDS)
        except TimeoutError:
            logger.warning("what is not sent after %g s goes on at the next start", DRAIN_SECONDS)
        await self._close()

    async def crash(self) -> None:
        """End as kill -9 would, but for the process: nothing more is committed, sent, or given back."""
        self._draining = True
        await self._close(say_goodbye=False)

    async def _close(self, *, say_goodbye: bool = True) -> None:
        self._open.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for cell in self._cells:
            refuse(cell.mailbox, ENDED)
        self._alarms.clear()
        self._publishes = False
        self._publisher.cancel()
        self._confirmations.cancel()
        await self._link.close(say_goodbye=say_goodbye)
        if self._own_log is not None:
            self._own_log.close()
        if self._database is not None:
            await self._database.close()

    def lapse(self) -> None:
        """Begin a new incarnation: the lease was not renewed in time, so others may have taken over."""
        logger.warning("worker %s could not renew its lease in time: its work is let go", self.incarnation)
        self._open.clear()
        if self._worker is not None:
            self._worker.lapsed()
        self._alarms.clear()
        self._executor.watch = None
        self.incarnation = new_id()
        for cell in self._cells:
            if not cell.working:
                cell.forget()
        self._begin(self._begin_anew(), "new incarnation")

    async def _begin_anew(self) -> None:
        await self._link.renew_incarnation()
        self._executor.watch = self._link.watch
        self._open.set()

    # The port: asking and telling

    async def call(
        self, ref: ActorRef, method: str, body: Any = None, *, traceparent: str | None = None
    ) -> Any:
        """Run a turn and return its reply, once all that it rests on is durable."""
        self._check()
        message = Message(f"call/{new_id()}", ref, method, body, traceparent=traceparent)
        if ref.type in self._cells.kinds:
            return await self._enqueue(message, is_call=True)
        return await self._link.call(self._kind(ref), message)

    async def send(self, message: Message) -> None:
        """Take a message from outside: its turn is durable when this returns."""
        self._check()
        require_json(message.id, message.body)
        self._kind(message.to)
        await self._deliver(message)

    async def publish(self, event: Event) -> None:
        """Take an event from outside: the broker has it when this returns. Who takes it drops a repeat."""
        self._check()
        require_json(event.id, event.payload)
        await self._emit([event])

    def emit(self, events: Sequence[Event]) -> Awaitable[None]:
        """Take events that this process makes; await the result to know that the broker has them."""
        if self._emitted + len(events) > MAX_EMITTED:
            raise MailboxFull(f"{self._emitted} events wait for the broker", remedy="see that it is up")
        return self._emit(events)

    def broadcast(self, event: Event) -> None:
        """Show an event to the listeners of every process; it is not kept."""
        self._bus.tell(event)
        if self._open.is_set():
            self._keeper.show(Entry(event))

    async def read(self, ref: ActorRef) -> BaseModel | None:
        """The actor's committed state, from the store."""
        kind = self._kind(ref)
        document, _ = await self._documents.read(ref)
        return kind.decode_state(document.head.state) if document.head.revision else None

    def append(self, record: Record, events: Sequence[Event] = ()) -> Awaitable[None]:
        """Write a record outside a turn, and tell events with it; await the result to know it durable."""
        require_json(record.ref, record.value, *(event.payload for event in events))
        cell = self._cells.find(record.ref, self._now())
        written = self._executor.put_record(record, events)
        cell.writes.add(written)

        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def is_written(written: asyncio.Future[str | None]) -> None:
            cell.writes.discard(written)
            error = None if written.cancelled() else written.exception()
            if written.cancelled() or (error is not None and not isinstance(error, Conflict)):
                settle(kept, None, error or ENDED)
            elif error is None and events:
                self._emit(events).add_done_callback(lambda emitted: pass_on(emitted, kept))
            else:  # where there was one of that number, that stands and has told its events
                settle(kept, None, None)

        written.add_done_callback(is_written)
        return kept

    async def records(
        self, ref: ActorRef, stream: str, *, first: int = 1, last: int | None = None
    ) -> list[Record]:
        """The records of a stream, in order. What another worker had to tell with them is told again."""
        cell = self._cells.active(ref)
        if cell is not None and cell.writes:
            await asyncio.wait(cell.writes)
        stored = await self._executor.records(ref, stream, first, last)
        untold = [event for each in stored if not self._is_own(each.by) for event in each.events]
        if untold:
            await self._emit(untold)
        return [each.record for each in stored]

    async def is_gone(self, incarnation: str) -> bool:
        """Whether a worker's lease has run out, or it said goodbye. Unknown counts as not."""
        try:
            return await self._link.lease.is_gone(incarnation)
        except HostError as error:
            logger.warning("whether worker %s is gone is not known: %s", incarnation, error)
            return False

    # What daprd brings

    @property
    def actor_types(self) -> Mapping[str, Sequence[str]]:
        """The types that live here, with their turns, and that of the watch list's reminders."""
        types = {kind.type: list(kind.methods) for kind in self._cells.kinds.values()}
        return {**types, self._link.recovery.actor_type: []}

    @property
    def routes(self) -> Sequence[Route]:
        """What to subscribe to."""
        naming: Naming = self._link.naming
        routes = [Route(BUS, naming.shared(each, self.options.app_id)) for each in self._patterns]
        if self._log is not None:
            return [*routes, Route(BUS, naming.shared(EVENTS, LOG_GROUP))]
        return [*routes, Route(VIEWS, naming.everything(EVENTS))]

    @property
    def topics(self) -> Sequence[tuple[str, str]]:
        """For each route a component and a topic of ours: what is published there comes by it."""
        shown = (BUS if self._log is not None else VIEWS, EVENTS)
        return [*((BUS, example_of(pattern)) for pattern in self._patterns), shown]

    @property
    def _patterns(self) -> Sequence[str]:
        return sorted({each.pattern for each in self._subscriptions})

    async def on_topic(self, pubsub: str, topic: str, data: bytes) -> bool:
        """Take a message of the broker."""
        if self._link.pings.take(data):
            return True
        await self._open.wait()
        twin = self._taking.get(data)
        if twin is not None:
            return await asyncio.shield(twin)
        taking = self._taking[data] = asyncio.ensure_future(self._inbox.take(topic, data))
        taking.add_done_callback(lambda taking: self._taken(data, taking))
        return await asyncio.shield(taking)

    def _taken(self, data: bytes, taking: asyncio.Future[bool]) -> None:
        """Forget a message, but not before its twin has come.

        daprd's MQTT client hands each message of a shared subscription on twice once it has connected anew:
        it then knows the subscription by its name and by its filter (seen with daprd 1.18).
        """
        if taking.cancelled() or taking.exception() is not None or not taking.result():
            self._taking.pop(data, None)
        else:
            asyncio.get_running_loop().call_later(TWIN_SECONDS, self._taking.pop, data, None)

    async def on_actor(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        """Run a turn for another host (CALL, DELIVER) or for any client of Dapr (by the turn's name)."""
        self._check()
        await self._open.wait()
        if method == DELIVER:
            await self._deliver(Message.decode(body))
            return b"null"
        message = (
            Message.decode(body)
            if method == CALL
            else Message(f"call/{new_id()}", ref, method, body if body.strip() else None)
        )
        return to_json(await self._enqueue(message, is_call=True))

    async def on_reminder(self, ref: ActorRef, name: str) -> None:
        """A watch list's reminder."""
        await self._open.wait()
        await self._link.recovery.on_reminder(ref.id)

    # Recovery

    async def recover(self, ref: ActorRef) -> None:
        """Wake an actor that a worker left behind: send what it sent, and ask again for what it waits for."""
        cell = await self._look_at(ref)
        if cell is None or not self._is_owed(cell):
            return
        self._relay.start(cell)
        self._set_alarm(ref, cell.head.wake_at)
        if cell.head.obliged:
            await self._ask_again(cell, recover=True)

    async def review(self, ref: ActorRef) -> None:
        """Look at an open actor of this worker's list: strike it off, or ask again for what it waits for."""
        cell = self._cells.active(ref)
        if cell is not None and not cell.idle:
            return
        cell = await self._look_at(ref)
        if cell is None or not self._is_owed(cell):
            return
        writer = cell.document.by[0].partition("/")[0] if cell.document and cell.document.by else ""
        if writer != self.incarnation and not await self.is_gone(writer):
            if self._link.seen_elsewhere(ref, cell.head.revision):  # it watches what it wrote
                self._let_go(ref)
            return
        self._set_alarm(ref, cell.head.wake_at)
        if writer != self.incarnation:
            self._relay.start(cell)
        if cell.head.obliged:
            await self._ask_again(cell, recover=writer != self.incarnation)

    async def redrive(self, ref: ActorRef) -> None:
        """Ask again for what an actor waits for, now."""
        cell = await self._look_at(ref)
        if cell is not None and self._is_owed(cell) and cell.head.obliged:
            await self._ask_again(cell, recover=False)

    async def _look_at(self, ref: ActorRef) -> Cell | None:
        if ref.type not in self._cells.kinds:
            logger.warning("%s is open, and no such actor lives here", ref)
            return None
        cell = self._cells.find(ref, self._now())
        if not cell.working:
            document, etag = await self._documents.read(ref)
            if not cell.working and etag != cell.etag:
                cell.document, cell.etag, cell.actor = document, etag, None
                cell.outbox = [*document.outbox, *cell.outbox]
        return cell if cell.document is not None else None

    def _is_owed(self, cell: Cell) -> bool:
        head = cell.head
        if head.obliged or head.wake_at is not None or cell.outbox:
            return True
        self._let_go(cell.ref)
        return False

    def _let_go(self, ref: ActorRef) -> None:
        self._link.disarm(ref)
        self._alarms.set(ref, None)
        self._cells.drop(ref)

    async def _ask_again(self, cell: Cell, *, recover: bool) -> None:
        turns = [*(["recover"] * (recover and cell.kind.recovers)), *(["redrive"] * cell.kind.redrives)]
        for turn in turns:
            await self._enqueue(Message(f"{turn}/{self.incarnation}/{next(self._calls)}", cell.ref, turn))

    # Messages

    def _check(self) -> None:
        if self._draining or not self._open.is_set():
            raise Draining("the mesh is not running", remedy="try again when it is up: nothing was taken")

    def _kind(self, ref: ActorRef) -> ActorKind:
        kind = self._cells.kinds.get(ref.type) or self._elsewhere.get(ref.type)
        if kind is None:
            raise NotFound(f"no actor type {ref.type!r} is registered", field="type")
        return kind

    async def _deliver(self, message: Message) -> None:
        """Give a message that may come again to its actor, wherever that lives."""
        try:
            kind = self._kind(message.to)
        except NotFound as error:
            await self._emit([dead_letter(message, error, self.clock.now())])
            return
        if message.to.type in self._cells.kinds:
            await self._enqueue(message, once=True)
        else:
            await self._link.deliver(kind, message)

    def _enqueue(
        self, message: Message, *, once: bool = False, alarm: bool = False, is_call: bool = False
    ) -> asyncio.Future[Any]:
        cell = self._cells.find(message.to, self._now())
        if len(cell.mailbox) >= self._max_mailbox:
            raise MailboxFull(
                f"{cell.ref} has {len(cell.mailbox)} messages waiting", remedy="try again in a moment"
            )
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        cell.mailbox.append(Delivery(message, reply, once, alarm, is_call))
        if not cell.working:
            cell.working = True
            self._begin(self._work(cell), f"turns of {cell.ref}")
        return reply

    async def _work(self, cell: Cell) -> None:
        try:
            await self._executor.run(cell)
        finally:
            cell.working = False

    def _ring(self, ref: ActorRef) -> None:
        try:
            message = Message(f"wake/{self.incarnation}/{next(self._calls)}", ref, "wake")
            self._enqueue(message, alarm=True).add_done_callback(looked_at)
        except HostError as error:  # its turn comes with the next look at what is open
            logger.warning("the alarm of %s is late: %s", ref, error)

    # Effects

    def _signal(self, ref: ActorRef, signals: Sequence[Any]) -> None:
        if self._worker is not None:
            for signal in signals:
                self._worker.signal(ref, signal)

    def _set_alarm(self, ref: ActorRef, when: datetime | None) -> None:
        if self._open.is_set() and not self._draining:
            self._alarms.set(ref, when)

    def _send(self, cell: Cell) -> None:
        if cell.outbox:
            self._relay.start(cell)
        else:
            self._settled(cell)

    def _settled(self, cell: Cell) -> None:
        """Strike an actor off the list that is owed nothing any more."""
        if cell.outbox or cell.working or cell.document is None:
            return
        if not cell.head.obliged and cell.head.wake_at is None:
            self._link.disarm(cell.ref)

    def _emit(self, events: Sequence[Event]) -> asyncio.Future[None]:
        """Queue events at once, and see to it that they are kept and taken."""
        self._emitted += len(events)
        emitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._try_to_emit([(Entry(event), event.topic) for event in events], emitted, RETRY_SECONDS)
        return emitted

    def _try_to_emit(
        self, entries: Sequence[tuple[Entry, str]], emitted: asyncio.Future[None], pause: float
    ) -> None:
        if not self._publishes:
            settle(emitted, None, ENDED)
            return
        futures = [future for entry, topic in entries for future in self._publisher.add(entry, topic)]

        def ended(results: asyncio.Future[list[BaseException | None]]) -> None:
            failed = None if results.cancelled() else next(filter(None, results.result()), None)
            if failed is None:
                self._emitted -= len(entries)
                settle(emitted, None, ENDED if results.cancelled() else None)
                return
            logger.warning("%d events are tried again in %.1f s: %s", len(entries), pause, failed)
            again = min(2 * pause, MAX_RETRY_SECONDS)
            loop = asyncio.get_running_loop()
            loop.call_later(pause, self._try_to_emit, entries, emitted, again)

        asyncio.gather(*futures, return_exceptions=True).add_done_callback(ended)

    # Small parts

    def _is_taken(self, topic: str) -> bool:
        return self._bus.takes(topic) or any(matches(topic) for matches in self._taken_elsewhere)

    def _is_own(self, commit_name: str) -> bool:
        return commit_name.partition("/")[0] == self.incarnation

    def _naming(self) -> Naming:
        return self._link.naming

    def _commit_name(self) -> str:
        return f"{self.incarnation}/{next(self._commits)}"

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if (
            not task.cancelled()
            and task.exception() is not None
            and not isinstance(task.exception(), HostError)
        ):
            logger.error("%s failed", task.get_name(), exc_info=task.exception())

    async def _trim(self) -> None:
        while True:
            await asyncio.sleep(IDLE_SECONDS / 2)
            self._cells.trim(self._now() - IDLE_SECONDS)

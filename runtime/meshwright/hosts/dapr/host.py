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
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from meshwright import topics
from meshwright.bus import Bus
from meshwright.clock import Clock, SystemClock
from meshwright.envelope import ActorRef, Message, Record
from meshwright.errors import Draining, HostError, StoreFailed
from meshwright.events.log import EventLog
from meshwright.events.logger import EventLogger
from meshwright.host import Listener, Signals, Subscription
from meshwright.hosts.dapr.cells import Cell, Cells, Documents
from meshwright.hosts.dapr.deliveries import Deliveries
from meshwright.hosts.dapr.documents import Entry
from meshwright.hosts.dapr.doors import Doors
from meshwright.hosts.dapr.emitter import Emitter
from meshwright.hosts.dapr.executor import Executor, Tells
from meshwright.hosts.dapr.inbox import Inbox
from meshwright.hosts.dapr.keeping import Batches, Confirmations, Keeper, OwnLog, RemoteLog
from meshwright.hosts.dapr.lease import KNOWN_ALIVE_SECONDS, Lease
from meshwright.hosts.dapr.link import Link
from meshwright.hosts.dapr.naming import EVENTS, LOGGED, Naming
from meshwright.hosts.dapr.options import Options
from meshwright.hosts.dapr.ping import Pings
from meshwright.hosts.dapr.records import Appends, Records
from meshwright.hosts.dapr.recovery import Recovery
from meshwright.hosts.dapr.relay import Publisher, Relay
from meshwright.hosts.dapr.sidecar import Sidecar
from meshwright.hosts.dapr.state import State
from meshwright.hosts.dapr.wakes import Wakes
from meshwright.hosts.dapr.watch import Watches
from meshwright.messages import Event, new_id
from meshwright.storage.database import Database
from meshwright.tracing import NoTracing, Tracing
from meshwright.turns import ActorKind, require_json

logger = logging.getLogger("meshwright.dapr")

IDLE_SECONDS = 60.0
DRAIN_SECONDS = 10.0
KEEP_SECONDS = 2.0  # that a stop waits for a log that is away
DRAIN_LOOK_SECONDS = 0.005


class DaprHost:
    """Runs actors over one sidecar. One process `keeps_log`, the mesh's; that of another stays empty.

    `database` is opened by `start` and closed by `stop`. `taken_elsewhere` are patterns of topics from which
    other apps take messages, besides those that this one subscribes to. `max_mailbox` bounds what may wait
    for one actor before calls and sends are refused.
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
        self._log = log
        self._database = database
        self._worker: Signals | None = None
        self._bus = Bus()
        self._taken_elsewhere = [topics.matcher(pattern) for pattern in taken_elsewhere]
        self._tasks: set[asyncio.Task[None]] = set()
        self._commits = itertools.count(1)
        self._draining = False
        self._beginning: asyncio.Task[None] | None = None
        sender = new_id()
        sidecar = Sidecar(options.grpc_port, options.api_token)
        state = State(sidecar, options.namespace, patience_seconds=options.patience_seconds)
        self._lease = Lease(
            state, sidecar, lease_seconds=options.lease_seconds, renew_seconds=options.renew_seconds
        )
        self._cells = Cells(max_active)
        self._documents = Documents(state)
        tells = Tells(self._signal, self._set_alarm, self._send, self._emit)
        records = Records(state, self._commit_name)
        self._executor = Executor(
            self._documents,
            records,
            self.clock,
            tracing or NoTracing(),
            tells,
            self._commit_name,
            self.is_gone,
        )
        event_logger = EventLogger(log) if log is not None and keeps_log else None
        batches = Batches(sidecar, sender, self._naming, LOGGED if event_logger else EVENTS)
        self._confirmations = Confirmations(sidecar, self._naming)
        remote = RemoteLog(self._bus, batches)
        self._keeper: Keeper = OwnLog(event_logger, self._bus, batches) if event_logger else remote
        self._publisher = Publisher(sidecar, self._naming, self._is_taken)
        self._emitter = Emitter(self._publisher, self._keeper)
        self._deliveries = Deliveries(
            self._cells,
            self._executor,
            sidecar,
            self.clock,
            max_mailbox=max_mailbox,
            begin=self._begin,
            emit=self._emitter.emit,
        )
        self._relay = Relay(
            self._publisher, self._keeper, self._deliveries.deliver, self._begin, self._settled
        )
        self._appends = Appends(records, self._cells, self._relay, self._emitter, lambda: self.incarnation)
        self._wakes = Wakes(
            self._cells,
            self._executor,
            self._deliveries,
            self._relay,
            self.clock,
            incarnation=lambda: self.incarnation,
            is_gone=self.is_gone,
            settled_seconds=options.lease_seconds + KNOWN_ALIVE_SECONDS,
        )
        recovery = Recovery(
            sidecar,
            self._lease,
            Watches(state, options.app_id),
            f"{options.app_id}-watch",
            redrive_seconds=options.redrive_seconds,
            recover=self._wakes.recover,
            review=self._wakes.review,
        )
        inbox = Inbox(
            self._bus,
            event_logger,
            self.clock,
            sender,
            self._deliveries.deliver,
            self._emitter.emit,
            self._confirmations.add,
            remote.confirm,
        )
        pings = Pings(sidecar, sender)
        self._doors = Doors(
            options.app_id,
            self._cells,
            self._deliveries,
            inbox,
            pings,
            recovery,
            keeps_log=event_logger is not None,
        )
        self._link = Link(options, sidecar, state, self._lease, recovery, pings, self._doors, self.lapse)

    # The port: what is known before the start

    def register(self, kind: ActorKind) -> None:
        """Make a type of actor known that lives here."""
        if kind.type in self._cells.kinds:
            raise ValueError(f"actor type {kind.type!r} is registered already")
        self._cells.kinds[kind.type] = kind

    def know(self, kind: ActorKind) -> None:
        """Make a type of actor known that lives in another app, so that it can be called and read."""
        self._deliveries.elsewhere[kind.type] = kind

    def subscribe(self, subscription: Subscription) -> None:
        """Send the events of a pattern to actors; the replicas of this app share them."""
        self._doors.subscriptions.append(subscription)
        self._bus.subscribe(subscription)

    def listen(self, pattern: str, listener: Listener) -> Callable[[], None]:
        """Call back for each event that is kept from now on; the result ends it."""
        return self._bus.listen(pattern, listener)

    def attach(self, worker: Signals) -> None:
        """Give the signals of turns to this worker."""
        self._worker = worker

    # Lifetime

    async def start(self) -> None:
        """Meet the sidecar, take a lease, and begin. Raises StoreUnavailable, ConfigError."""
        self._draining = False
        self._emitter.open()
        self._relay.open()
        if self._database is not None:
            await self._database.open()
        if self._log is not None:
            await self._log.start()
        try:
            self._executor.watch = await self._link.open(self.incarnation)
            self._doors.opened.set()
            await self._link.serve()
        except BaseException:  # a cancelled start too must leave nothing open
            await self._close()
            raise
        self._begin(self._trim(), "idle actors")

    async def stop(self) -> None:
        """Take nothing new, let what is under way commit and be sent, give the lease back. Idempotent."""
        if not self._doors.opened.is_set():
            return
        self._draining = True
        self._wakes.clear_alarms()
        await self._link.drain()
        for seconds, is_done in ((DRAIN_SECONDS, self._is_done), (KEEP_SECONDS, self._is_kept)):
            try:
                async with asyncio.timeout(seconds):
                    while not is_done():  # noqa: ASYNC110 only a stop waits
                        await asyncio.sleep(DRAIN_LOOK_SECONDS)
            except TimeoutError:
                logger.warning("what is under way after %g s goes on at the next start", seconds)
        await self._close()

    async def crash(self) -> None:
        """End as kill -9 would, but for the process: nothing more is committed, sent, or given back."""
        self._draining = True
        await self._close(say_goodbye=False)

    async def _close(self, *, say_goodbye: bool = True) -> None:
        self._doors.opened.clear()
        self._emitter.close()
        self._relay.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._deliveries.refuse_all()
        self._wakes.clear_alarms()
        self._publisher.cancel()
        self._keeper.cancel()
        self._confirmations.cancel()
        await self._link.close(say_goodbye=say_goodbye)
        if self._log is not None:
            self._log.close()
        if self._database is not None:
            await self._database.close()

    def lapse(self) -> None:
        """Begin a new incarnation: the lease was not renewed in time, so others may have taken over."""
        if self._beginning is not None and not self._beginning.done():
            return
        logger.warning("worker %s could not renew its lease in time: its work is let go", self.incarnation)
        self._doors.opened.clear()
        if self._worker is not None:
            self._worker.lapsed()
        self._wakes.clear_alarms()
        self._executor.watch = None
        self.incarnation = new_id()
        for cell in self._cells:
            if not cell.working:
                cell.forget()
        self._beginning = self._begin(self._begin_anew(), "new incarnation")

    async def _begin_anew(self) -> None:
        self._executor.watch = await self._link.begin_anew(self.incarnation)
        self._doors.opened.set()

    # The port: asking and telling

    async def call(
        self, ref: ActorRef, method: str, body: Any = None, *, traceparent: str | None = None
    ) -> Any:
        """Run a turn and return its reply, once all that it rests on is durable."""
        self._check()
        return await self._deliveries.call(
            Message(f"call/{new_id()}", ref, method, body, traceparent=traceparent)
        )

    async def send(self, message: Message) -> None:
        """Take a message from outside: its turn is durable when this returns."""
        self._check()
        require_json(message.id, message.body)
        self._deliveries.kind(message.to)
        await self._deliveries.deliver(message)

    async def publish(self, event: Event) -> None:
        """Take an event from outside: it is kept when this returns. Who takes it drops a repeat."""
        self._check()
        require_json(event.id, event.payload)
        await self._emitter.emit([event])

    def emit(self, events: Sequence[Event]) -> Awaitable[None]:
        """Take events that this process makes; await the result to know that they are kept."""
        self._emitter.check_room(len(events))
        return self._emitter.emit(events)

    def broadcast(self, event: Event) -> None:
        """Show an event to the listeners of every process; it is not kept."""
        self._bus.tell(event)
        if self._doors.opened.is_set():
            self._keeper.show(Entry(event))

    async def read(self, ref: ActorRef) -> BaseModel | None:
        """The actor's committed state, from the store."""
        kind = self._deliveries.kind(ref)
        document, _ = await self._documents.read(ref)
        return kind.decode_state(document.head.state) if document.head.revision else None

    def append(self, record: Record, events: Sequence[Event] = ()) -> Awaitable[None]:
        """Write a record outside a turn, and tell events with it; await the result to know it durable."""
        require_json(record.ref, record.value, *(event.payload for event in events))
        return self._appends.append(record, events)

    async def records(
        self, ref: ActorRef, stream: str, *, first: int = 1, last: int | None = None
    ) -> list[Record]:
        """The records of a stream, in order. What another worker had to tell with them is told again."""
        return await self._appends.read(ref, stream, first, last)

    async def is_gone(self, incarnation: str) -> bool:
        """Whether a worker's lease has run out, or it said goodbye. Unknown counts as not."""
        try:
            return await self._lease.is_gone(incarnation)
        except HostError as error:
            logger.warning("whether worker %s is gone is not known: %s", incarnation, error)
            return False

    # What a commit leads to

    def _signal(self, ref: ActorRef, signals: Sequence[Any]) -> None:
        if self._worker is not None:
            for signal in signals:
                self._worker.signal(ref, signal)

    def _set_alarm(self, ref: ActorRef, when: datetime | None) -> None:
        if self._doors.opened.is_set() and not self._draining:
            self._wakes.set_alarm(ref, when)

    def _send(self, cell: Cell) -> None:
        self._wakes.send(cell)

    def _settled(self, cell: Cell) -> None:
        self._wakes.settled(cell)

    def _emit(self, events: Sequence[Event]) -> Awaitable[None]:
        return self._emitter.emit(events)

    # Small parts

    def _is_done(self) -> bool:
        return not self._emitter.waiting and not any(cell.is_busy for cell in self._cells)

    def _is_kept(self) -> bool:
        return all(cell.idle for cell in self._cells)

    def _check(self) -> None:
        if self._draining or not self._doors.opened.is_set():
            raise Draining("the mesh is not running", remedy="try again when it is up: nothing was taken")

    def _is_taken(self, topic: str) -> bool:
        return self._bus.takes(topic) or any(matches(topic) for matches in self._taken_elsewhere)

    def _naming(self) -> Naming:
        assert self._doors.naming is not None
        return self._doors.naming

    def _commit_name(self) -> str:
        return f"{self.incarnation}/{next(self._commits)}"

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, HostError):
            logger.error("%s failed", task.get_name(), exc_info=error)

    async def _trim(self) -> None:
        while True:
            await asyncio.sleep(IDLE_SECONDS / 2)
            self._cells.trim(asyncio.get_running_loop().time() - IDLE_SECONDS)

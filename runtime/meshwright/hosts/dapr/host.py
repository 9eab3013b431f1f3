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
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from meshwright import topics
from meshwright.bus import Bus
from meshwright.clock import Clock, SystemClock
from meshwright.encoding import MAX_RECORD_BYTES
from meshwright.envelope import ActorRef, Message, Record
from meshwright.errors import Draining, StoreFailed
from meshwright.events.log import EventLog
from meshwright.events.logger import EventLogger
from meshwright.host import Listener, Signals, Subscription
from meshwright.hosts.dapr.background import Background
from meshwright.hosts.dapr.documents import Entry
from meshwright.hosts.dapr.options import Options
from meshwright.hosts.dapr.parts import Given, join
from meshwright.messages import Event, new_id
from meshwright.sql.database import Database
from meshwright.tracing import NoTracing, Tracing
from meshwright.turns import ActorKind, seal_events, seal_message, seal_record

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
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.incarnation = new_id()
        self.on_failure: Callable[[StoreFailed], None] = lambda error: None
        self.options = options
        self._log = log
        self._database = database
        self.max_record_bytes = max_record_bytes
        self._worker: Signals | None = None
        self._bus = Bus()
        self._taken_elsewhere = [topics.matcher(pattern) for pattern in taken_elsewhere]
        self._background = Background()
        self._commits = itertools.count(1)
        self._draining = False
        self._beginning: asyncio.Task[None] | None = None
        parts = join(
            Given(
                options=options,
                clock=self.clock,
                tracing=tracing or NoTracing(),
                bus=self._bus,
                log=EventLogger(log) if log is not None and keeps_log else None,
                background=self._background,
                max_mailbox=max_mailbox,
                max_active=max_active,
                max_record_bytes=max_record_bytes,
                is_taken=self._is_taken,
                incarnation=lambda: self.incarnation,
                commit_name=self._commit_name,
                signal=self._signal,
                set_alarm=self._set_alarm,
                lapse=self.lapse,
            )
        )
        self._store = parts.store
        self._outgoing = parts.outgoing
        self._turns = parts.turns
        self._doors = parts.doors
        self._link = parts.link

    # The port: what is known before the start

    def register(self, kind: ActorKind) -> None:
        """Make a type of actor known that lives here."""
        if kind.type in self._turns.cells.kinds:
            raise ValueError(f"actor type {kind.type!r} is registered already")
        self._turns.cells.kinds[kind.type] = kind

    def know(self, kind: ActorKind) -> None:
        """Make a type of actor known that lives in another app, so that it can be called and read."""
        self._turns.deliveries.elsewhere[kind.type] = kind

    def subscribe(self, subscription: Subscription) -> None:
        """Send the events of a pattern to actors; the replicas of this app share them."""
        self._doors.subscriptions.append(subscription)
        self._bus.subscribe(subscription)

    def listen(self, pattern: str, listener: Listener, types: Collection[str] = ()) -> Callable[[], None]:
        """Call back for each event that is kept from now on; the result ends it."""
        return self._bus.listen(pattern, listener, types)

    def attach(self, worker: Signals) -> None:
        """Give the signals of turns to this worker."""
        self._worker = worker

    # Lifetime

    async def start(self) -> None:
        """Meet the sidecar, take a lease, and begin. Raises StoreUnavailable, ConfigError."""
        self._draining = False
        self._outgoing.emitter.open()
        self._turns.relay.open()
        if self._database is not None:
            await self._database.open()
        if self._log is not None:
            await self._log.start()
        try:
            self._turns.executor.watch = await self._link.open(self.incarnation)
            self._doors.opened.set()
            await self._link.serve()
        except BaseException:  # a cancelled start too must leave nothing open
            await self._close()
            raise
        self._background.begin(self._trim(), "idle actors")

    async def stop(self) -> None:
        """Take nothing new, let what is under way commit and be sent, give the lease back. Idempotent."""
        if self._begins_anew():
            await self.crash()  # its work is let go already, and its lease another's or nobody's
        if not self._doors.opened.is_set():
            return
        self._draining = True
        self._turns.wakes.clear_alarms()
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
        self._outgoing.emitter.close()
        self._turns.relay.close()
        await self._background.cancel()
        self._turns.deliveries.refuse_all()
        self._turns.wakes.clear_alarms()
        self._outgoing.cancel()
        await self._link.close(say_goodbye=say_goodbye)
        if self._log is not None:
            self._log.close()
        if self._database is not None:
            await self._database.close()

    def lapse(self) -> None:
        """Begin a new incarnation: the lease was not renewed in time, so others may have taken over."""
        if self._begins_anew():
            return
        logger.warning("worker %s could not renew its lease in time: its work is let go", self.incarnation)
        self._doors.opened.clear()
        if self._worker is not None:
            self._worker.lease_lost()
        self._turns.wakes.clear_alarms()
        self._turns.executor.watch = None
        self.incarnation = new_id()
        for cell in self._turns.cells:
            if not cell.working:
                cell.forget()
        self._beginning = self._background.begin(self._begin_anew(), "new incarnation")

    def _begins_anew(self) -> bool:
        return self._beginning is not None and not self._beginning.done()

    async def _begin_anew(self) -> None:
        self._turns.executor.watch = await self._link.begin_anew(self.incarnation)
        self._doors.opened.set()

    # The port: asking and telling

    async def call(
        self, ref: ActorRef, method: str, body: Any = None, *, traceparent: str | None = None
    ) -> Any:
        """Run a turn and return its reply, once all that it rests on is durable."""
        self._check()
        return await self._turns.deliveries.call(
            Message(f"call/{new_id()}", ref, method, body, traceparent=traceparent)
        )

    async def send(self, message: Message) -> None:
        """Take a message from outside: its turn is durable when this returns."""
        self._check()
        message = seal_message(message, self.max_record_bytes)
        self._turns.deliveries.kind(message.to)
        await self._turns.deliveries.deliver(message)

    async def publish(self, event: Event) -> None:
        """Take an event from outside: it is kept when this returns. Who takes it drops a repeat."""
        self._check()
        await self._outgoing.emitter.emit(seal_events([event], self.max_record_bytes))

    def emit(self, events: Sequence[Event]) -> Awaitable[None]:
        """Take events that this process makes; await the result to know that they are kept."""
        self._outgoing.emitter.check_room(len(events))
        events = seal_events(events, self.max_record_bytes, mend=True)
        return self._outgoing.emitter.emit(events)

    def broadcast(self, event: Event) -> None:
        """Show an event to the listeners of every process; it is not kept."""
        self._bus.tell(event)
        if self._doors.opened.is_set():
            self._outgoing.keeper.show(Entry(event.sealed(mend=True)))

    async def read(self, ref: ActorRef) -> BaseModel | None:
        """The actor's committed state, from the store."""
        kind = self._turns.deliveries.kind(ref)
        document, _ = await self._store.documents.read(ref)
        return kind.decode_state(document.head.state) if document.head.revision else None

    def append(self, record: Record, events: Sequence[Event] = ()) -> Awaitable[None]:
        """Write a record outside a turn, and tell events with it; await the result to know it durable."""
        record = seal_record(record, self.max_record_bytes)
        return self._turns.appends.append(record, seal_events(events, self.max_record_bytes))

    async def records(
        self, ref: ActorRef, stream: str, *, first: int = 1, last: int | None = None
    ) -> list[Record]:
        """The records of a stream, in order. What another worker had to tell with them is told again."""
        return await self._turns.appends.read(ref, stream, first, last)

    async def has_expired(self, incarnation: str) -> bool:
        """Whether a worker's lease has run out, or it said goodbye. Unknown counts as not."""
        return await self._store.lease.is_known_gone(incarnation)

    # What a commit leads to

    def _signal(self, ref: ActorRef, signals: Sequence[Any]) -> None:
        if self._worker is not None:
            for signal in signals:
                self._worker.signal(ref, signal)

    def _set_alarm(self, ref: ActorRef, when: datetime | None) -> None:
        if self._doors.opened.is_set() and not self._draining:
            self._turns.wakes.set_alarm(ref, when)

    # Small parts

    def _is_done(self) -> bool:
        return not self._outgoing.emitter.waiting and not any(cell.is_busy for cell in self._turns.cells)

    def _is_kept(self) -> bool:
        return all(cell.idle for cell in self._turns.cells)

    def _check(self) -> None:
        if self._draining or not self._doors.opened.is_set():
            raise Draining("the mesh is not running", remedy="try again when it is up: nothing was taken")

    def _is_taken(self, topic: str) -> bool:
        return self._bus.takes(topic) or any(matches(topic) for matches in self._taken_elsewhere)

    def _commit_name(self) -> str:
        return f"{self.incarnation}/{next(self._commits)}"

    async def _trim(self) -> None:
        while True:
            await asyncio.sleep(IDLE_SECONDS / 2)
            self._turns.cells.trim(asyncio.get_running_loop().time() - IDLE_SECONDS)

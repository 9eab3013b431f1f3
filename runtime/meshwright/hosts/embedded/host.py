"""The embedded host: one process, one SQLite file, mailboxes, alarms and topics in process.

Messages between actors run ahead of the disk, and commits keep the order in which turns ran; what leaves
the process (a reply, an `after` signal, an event to a listener) waits until its group is durable. So a task
costs two fsyncs, however many turns it takes, and tasks in flight share them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from meshwright.bus import Bus
from meshwright.clock import Clock, SystemClock
from meshwright.encoding import MAX_RECORD_BYTES
from meshwright.envelope import ActorRecord, ActorRef, Message, Record
from meshwright.errors import Draining, MailboxFull, NotFound, StoreFailed
from meshwright.events.log import EventLog
from meshwright.host import Listener, Signals, Subscription, dead_letter
from meshwright.hosts.embedded.alarms import Alarms
from meshwright.hosts.embedded.cells import Cell, Cells, Delivery
from meshwright.hosts.embedded.group import Durable, Group, GroupCommitter
from meshwright.hosts.embedded.records import Records
from meshwright.messages import Event, new_id
from meshwright.sql.database import Database
from meshwright.sql.sqlite import RESTORE, Durability, SqliteDatabase
from meshwright.tracing import NoTracing, Tracing
from meshwright.turns import ActorKind, Commit, seal_events, seal_message, seal_record, take_turn

MAX_TURNS_A_ROUND = 64  # of the event loop, so that nothing else waits longer than some milliseconds
MAX_CALLBACKS_A_ROUND = 8  # replies and started work wake others: a whole group at once stalls the loop
RECOVERED_A_ROUND = 100
IDLE_SECONDS = 60.0
UNTRACED = NoTracing()  # for turns that belong to no task
TRIM_EVERY_TURNS = 1000
MAX_ACTIVE_BYTES = 64 * 1024 * 1024  # of the states of active actors, as JSON


class EmbeddedHost:
    """Runs actors in this process on one SQLite file, which it locks while it runs."""

    name = "embedded"

    def __init__(
        self,
        database: Database,
        log: EventLog,
        *,
        clock: Clock | None = None,
        tracing: Tracing | NoTracing | None = None,
        max_mailbox: int = 1000,
        max_active: int = 5000,
        max_record_bytes: int = MAX_RECORD_BYTES,
        max_active_bytes: int = MAX_ACTIVE_BYTES,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.incarnation = new_id()
        self.on_failure: Callable[[StoreFailed], None] = lambda error: None
        self._database = database
        self._log = log
        self._tracing = tracing or NoTracing()
        self._max_mailbox = max_mailbox
        self.max_record_bytes = max_record_bytes
        self._cells = Cells(max_active, max_active_bytes, self._fail)
        self._bus = Bus()
        self._records = Records(self._cells)
        self._alarms = Alarms(self.clock, self._load_due, self._fire)
        self._committer = GroupCommitter(database.submit, log.insert, self._on_durable, self._on_failed)
        self._worker: Signals | None = None
        self._ready: deque[Cell] = deque()
        self._callbacks: deque[Callable[[BaseException | None], None]] = deque()
        self._scheduled = False
        self._draining = False
        self._failure: StoreFailed | None = None
        self._rows = itertools.count(1)
        self._calls = itertools.count(1)
        self._turns = 0
        self._publishing: dict[str, asyncio.Event] = {}
        self._recovery: asyncio.Task[None] | None = None
        self._trimming: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def in_folder(
        cls, folder: Path | None, *, durability: Durability = "full", **options: Any
    ) -> EmbeddedHost:
        """A host on the file of a folder, with its own event log."""
        database = SqliteDatabase(folder, durability=durability)
        return cls(database, EventLog(database), **options)

    @property
    def active(self) -> int:
        """How many actors are in memory."""
        return len(self._cells)

    def register(self, kind: ActorKind) -> None:
        """Make a type of actor known. Raises ValueError when the type is taken."""
        if kind.type in self._cells.kinds:
            raise ValueError(f"actor type {kind.type!r} is registered already")
        self._cells.kinds[kind.type] = kind

    def know(self, kind: ActorKind) -> None:
        """Nothing lives elsewhere: this host is alone."""

    def subscribe(self, subscription: Subscription) -> None:
        """Send the events of a pattern to actors."""
        self._bus.subscribe(subscription)

    def listen(self, pattern: str, listener: Listener, types: Collection[str] = ()) -> Callable[[], None]:
        """Call back for each event that becomes durable from now on; the result ends it."""
        return self._bus.listen(pattern, listener, types)

    def attach(self, worker: Signals) -> None:
        """Give the signals of turns to this worker."""
        self._worker = worker

    async def start(self) -> None:
        """Open the file, take up what was under way, and begin to run turns."""
        await self.open()
        try:
            mailbox = self._stored_mailbox()
            obliged = self._cells.read("SELECT type, id FROM heads WHERE obliged", ())
        except BaseException:  # the folder must be given back
            await self._close_files()
            raise
        self._take_up_mailbox(mailbox)
        self._recovery = asyncio.create_task(self._recover(obliged), name="recovery")
        self._alarms.start()
        self._trimming = asyncio.create_task(self._trim_idle(), name="idle actors")

    async def open(self) -> None:
        """Open the file, for `read` alone: what was under way stays as it is. `stop` closes it."""
        self._loop = asyncio.get_running_loop()
        await self._database.open()
        try:
            await self._log.start()
            self._cells.open(self._database.connect_reader(), Path(self._database.location))
        except BaseException:  # a cancelled start too must give the folder back
            await self._close_files()
            raise

    async def _close_files(self) -> None:
        self._cells.close()
        await self._database.close()

    async def stop(self) -> None:
        """Take nothing new, let what is under way commit, and close the file. Idempotent."""
        if self._loop is None:
            return
        self._draining = True
        await self._alarms.stop()
        for task in (self._recovery, self._trimming):
            if task is not None:
                task.cancel()
        while self._failure is None and (self._ready or self._callbacks or not self._committer.idle):
            await self._queued()
        self._log.close()
        await self._close_files()
        self._loop = None

    async def call(
        self, ref: ActorRef, method: str, body: Any = None, *, traceparent: str | None = None
    ) -> Any:
        """Run a turn and return its reply, once all that it rests on is durable."""
        cell = self._admit(ref)
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        message = Message(f"call/{next(self._calls)}", ref, method, body, traceparent=traceparent)
        self._enqueue(cell, Delivery(message, reply=reply))
        return await reply

    async def send(self, message: Message) -> None:
        """Take a message from outside: durable when this returns, dropped if its id was taken before."""
        self._admit(message.to)
        self._post(seal_message(message, self.max_record_bytes), outside=True)
        await self._barrier()

    async def publish(self, event: Event) -> None:
        """Take an event from outside, durable when this returns; one whose id is known is dropped."""
        self._check()
        events = seal_events([event], self.max_record_bytes)
        while event.id in self._publishing:
            await self._publishing[event.id].wait()
        done = self._publishing[event.id] = asyncio.Event()
        try:
            if not await self._log.knows(event.id):
                self._spread(events)
            await self._barrier()
        finally:
            done.set()
            del self._publishing[event.id]

    def emit(self, events: Sequence[Event]) -> Awaitable[None]:
        """Take events that this process makes, each once; await the result to know them durable."""
        self._check(draining=True)
        self._spread(seal_events(events, self.max_record_bytes, mend=True))
        return self._queued()

    def broadcast(self, event: Event) -> None:
        """Show an event to the listeners of this process; it is not kept."""
        self._bus.tell(event)

    async def read(self, ref: ActorRef) -> BaseModel | None:
        """The actor's committed state, or None if it never had a turn."""
        self._check(draining=True)
        cell = self._cells.active(ref)
        if cell is not None and cell.pending:
            await self._barrier()
        kind = self._cells.kinds.get(ref.type)
        if kind is None:
            raise NotFound(f"no actor type {ref.type!r} is registered", field="type")
        head = cell.head if cell is not None else None
        if head is None:
            head = self._cells.stored_heads(ref.type, [ref.id]).get(ref.id)
        return kind.decode_state(head.state) if head is not None and head.revision else None

    def append(self, record: Record, events: Sequence[Event] = ()) -> Awaitable[None]:
        """Write a record outside a turn, and events with it; await the result to know them durable."""
        self._check(draining=True)
        record, events = (
            seal_record(record, self.max_record_bytes),
            seal_events(events, self.max_record_bytes),
        )
        if self._records.is_new(record):
            self._filling.records.append(record)
            self._records.note([record])
            self._spread(events)
        return self._queued()

    async def records(
        self, ref: ActorRef, stream: str, *, first: int = 1, last: int | None = None
    ) -> list[Record]:
        """The records of a stream from one number to another, in order; to its end without `last`."""
        self._check(draining=True)
        if self._records.is_unwritten(ref):
            await self._barrier()
        return self._records.read(ref, stream, first, last)

    async def has_expired(self, incarnation: str) -> bool:
        """Whether a run has ended: the file is locked by one process, so every other run has."""
        return incarnation != self.incarnation

    # Messages

    def _check(self, *, draining: bool = False) -> None:
        if self._failure is not None:
            raise self._failure
        if self._loop is None or (self._draining and not draining):
            raise Draining("the mesh is not running", remedy="try again when it is up: nothing was taken")

    def _admit(self, ref: ActorRef) -> Cell:
        self._check()
        cell = self._cells.find(ref, self._now())
        if len(cell.mailbox) >= self._max_mailbox:
            raise MailboxFull(
                f"{ref} has {len(cell.mailbox)} messages waiting", remedy="try again in a moment"
            )
        return cell

    def _post(self, message: Message, *, row: int | None = None, outside: bool = False) -> None:
        """Give a durable message to its actor; its row is in the group of its sender."""
        if row is None:
            row = next(self._rows)
            self._filling.send(row, message, outside=outside)
        delivery = Delivery(message, row, outside)
        try:
            cell = self._cells.find(message.to, self._now())
        except NotFound as error:
            self._dead_letter(delivery, error)
        else:
            self._enqueue(cell, delivery)

    def _enqueue(self, cell: Cell, delivery: Delivery) -> None:
        cell.mailbox.append(delivery)
        if not cell.queued:
            cell.queued = True
            self._ready.append(cell)
            self._schedule()

    def _spread(self, events: Sequence[Event]) -> None:
        """Put events into the log, and to the actors that subscribe to their topics."""
        if events:
            spread, messages = self._bus.spread(events)
            self._filling.events += spread
            for message in messages:
                self._post(message)

    def _fire(self, ref: ActorRef) -> None:
        cell = self._cells.find(ref, self._now())
        self._enqueue(cell, Delivery(Message(f"wake/{next(self._calls)}", ref, "wake")))

    def _load_due(self, until: float) -> list[tuple[str, str, float]]:
        with suppress(StoreFailed):  # the host has failed, and tells all who wait
            return self._cells.read("SELECT type, id, wake_at FROM heads WHERE wake_at <= ?", (until,))
        return []

    # Turns

    def _now(self) -> float:
        assert self._loop is not None
        return self._loop.time()

    @property
    def _filling(self) -> Group:
        return self._committer.filling

    def _schedule(self) -> None:
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._round)

    def _round(self) -> None:
        """One round of the loop: some callbacks, some turns, then their commits go to the writer."""
        self._scheduled = False
        for _ in range(min(MAX_CALLBACKS_A_ROUND, len(self._callbacks))):
            self._callbacks.popleft()(self._failure)
        turns = 0
        while self._ready and turns < MAX_TURNS_A_ROUND:
            cells = [self._ready.popleft() for _ in range(min(len(self._ready), MAX_TURNS_A_ROUND - turns))]
            with suppress(StoreFailed):  # the host has failed, and tells all who wait
                self._cells.load(cells)
            for cell in cells:
                self._take_next(cell)
                cell.queued = bool(cell.mailbox)
                if cell.queued:
                    self._ready.append(cell)
            turns += len(cells)
        self._committer.flush()
        if self._ready or self._callbacks:
            self._schedule()

    def _take_next(self, cell: Cell) -> None:
        delivery = cell.mailbox.popleft()
        if self._failure is not None:
            _settle(delivery.reply, None, self._failure)
            return
        assert cell.head is not None
        if delivery.message.method == "wake" and not self._is_due(cell.head):
            return
        try:
            commit = self._turn(cell, cell.head, delivery)
        except Exception as error:  # noqa: BLE001 whatever a turn raises, the actor is unchanged and the sender is told
            cell.forget_state()
            self._refuse(cell, delivery, error)
        else:
            self._commit(cell, delivery, commit)
        self._turns += 1
        if self._turns % TRIM_EVERY_TURNS == 0:
            self._cells.trim(self._now() - IDLE_SECONDS)

    def _turn(self, cell: Cell, head: ActorRecord, delivery: Delivery) -> Commit:
        message = delivery.message
        name = f"turn {cell.ref.type}.{message.method}"
        tracing = self._tracing if message.traceparent is not None else UNTRACED
        with tracing.span(name, parent=message.traceparent) as span:
            return take_turn(
                cell.kind,
                cell.activate(head),
                head,
                message,
                self.clock.now(),
                remember=delivery.outside,
                traceparent=span.traceparent,
                max_bytes=self.max_record_bytes,
            )

    def _is_due(self, head: ActorRecord) -> bool:
        return head.wake_at is not None and head.wake_at <= self.clock.now()

    def _commit(self, cell: Cell, delivery: Delivery, commit: Commit) -> None:
        group = self._filling
        if delivery.row is not None:
            group.take(delivery.row)
        if commit.changed:
            self._cells.set_head(cell, commit.head)
            cell.pending += 1
            group.add(commit, cell)
            self._records.note(commit.records)
            for message in commit.sends:
                self._post(message)
            self._spread(commit.events)
            if commit.head.wake_at is not None:
                self._alarms.note(cell.ref, commit.head.wake_at)
        for signal in commit.early:
            self._signal(cell.ref, signal)
        for signal in commit.after_commit:
            group.callbacks.append(partial(self._signal_after, cell.ref, signal))
        if delivery.reply is not None:
            self._settle_durably(cell, delivery.reply, commit.reply, None)

    def _refuse(self, cell: Cell, delivery: Delivery, error: Exception) -> None:
        if delivery.reply is not None:
            self._settle_durably(cell, delivery.reply, None, error)
        else:
            self._dead_letter(delivery, error)
            if delivery.message.method == "wake":  # the alarm went off: it must not go off for ever
                self._commit(cell, delivery, without_alarm(cell, delivery.message))

    def _settle_durably(
        self, cell: Cell, reply: asyncio.Future[Any], result: Any, error: Exception | None
    ) -> None:
        """Answer once the state that the answer rests on is durable."""
        if cell.pending:
            self._filling.callbacks.append(lambda failure: _settle(reply, result, failure or error))
        else:
            _settle(reply, result, error)

    def _dead_letter(self, delivery: Delivery, error: Exception) -> None:
        message = delivery.message
        if delivery.row is not None:
            self._filling.take(delivery.row)
        self._spread([dead_letter(message, error, self.clock.now())])
        self._schedule()

    # Commits

    async def _barrier(self) -> None:
        """Return once everything handed in so far is durable. Raises StoreFailed."""
        if self._failure is not None:
            raise self._failure
        if not self._committer.idle:
            await self._queued()

    def _queued(self) -> Durable:
        """Await it to know everything handed in so far durable."""
        self._schedule()
        return Durable(self._filling, self._schedule)

    def _on_durable(self, group: Group) -> None:
        for cell in group.cells:
            cell.pending -= 1
        self._records.written(group.records)
        if self._cells.are_too_many:
            self._cells.trim(self._now() - IDLE_SECONDS)
        if group.events:
            self._log.committed(group.events)
            for event in group.events:
                self._bus.tell(event)
        self._callbacks.extend(group.callbacks)
        self._schedule()

    def _on_failed(self, group: Group, error: StoreFailed) -> None:
        self._callbacks.extend(group.callbacks)
        self._callbacks.extend(self._filling.callbacks)
        self._filling.callbacks.clear()
        self._fail(error)

    def _fail(self, error: StoreFailed) -> None:
        """Nothing can be promised any more: whoever waits is told why, and nothing new is taken."""
        first = self._failure is None
        self._failure = error
        self._schedule()
        if first:
            self.on_failure(error)

    def _signal(self, ref: ActorRef, signal: Any) -> None:
        if self._worker is not None:
            self._worker.signal(ref, signal)

    def _signal_after(self, ref: ActorRef, signal: Any, failure: BaseException | None) -> None:
        if failure is None:
            self._signal(ref, signal)

    async def _trim_idle(self) -> None:
        while True:
            await asyncio.sleep(IDLE_SECONDS / 2)
            self._cells.trim(self._now() - IDLE_SECONDS)

    # Recovery

    def _stored_mailbox(self) -> list[tuple[int, bool, Message]]:
        """The messages on their way, in their order. Raises StoreFailed for one that cannot be read."""
        rows = self._cells.read("SELECT n, outside, message FROM mailbox ORDER BY n", ())
        try:
            return [(n, bool(outside), Message.decode(data)) for n, outside, data in rows]
        except (ValueError, KeyError, TypeError) as error:
            what = f"{self._database.location} is damaged: a message in its mailbox cannot be read"
            raise StoreFailed(what, remedy=RESTORE) from error

    def _take_up_mailbox(self, mailbox: Sequence[tuple[int, bool, Message]]) -> None:
        if mailbox:
            self._rows = itertools.count(mailbox[-1][0] + 1)
        for n, outside, message in mailbox:
            self._post(message, row=n, outside=outside)

    async def _recover(self, obliged: Sequence[tuple[str, str]]) -> None:
        """Wake every actor with something outstanding, some at a time so that others get their turn."""
        for start in range(0, len(obliged), RECOVERED_A_ROUND):
            for kind, name in obliged[start : start + RECOVERED_A_ROUND]:
                if kind in self._cells.kinds and self._cells.kinds[kind].recovers:
                    ref = ActorRef(kind, name)
                    message = Message(f"recover/{self.incarnation}", ref, "recover")
                    self._enqueue(self._cells.find(ref, self._now()), Delivery(message))
            await asyncio.sleep(0)


def without_alarm(cell: Cell, message: Message) -> Commit:
    """The commit of an alarm whose turn raised: it must not go off for ever."""
    assert cell.head is not None
    head = replace(cell.head, revision=cell.head.revision + 1, wake_at=None)
    return Commit(cell.ref, message, head)


def _settle(future: asyncio.Future[Any] | None, result: Any, error: BaseException | None) -> None:
    if future is None or future.done():
        return  # nobody waits, or the waiter has gone
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)

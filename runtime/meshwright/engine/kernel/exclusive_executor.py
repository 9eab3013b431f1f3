"""Turns that run ahead of an exclusive store, many to one batch.

Messages between actors do not wait for the disk, and batches keep the order in which turns ran; what leaves
the process (a reply, a signal after the commit, an event to a listener) waits until its batch is durable. So
a task costs two fsyncs, however many turns it takes, and tasks in flight share them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from meshwright.core.errors import StoreFailed
from meshwright.core.events import Event
from meshwright.engine.kernel.cells import Cell, Surroundings, settle, without_alarm
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message, Record
from meshwright.engine.kernel.guarantees import dead_letter
from meshwright.engine.kernel.store import Batch, Delivery, ExclusiveStore
from meshwright.engine.kernel.turns import Commit

logger = logging.getLogger("meshwright.kernel")

MAX_TURNS_A_ROUND = 64  # of the event loop
_ROUND_SECONDS = 0.005  # after which a round begins no more turns, so that nothing else waits longer
_LOADED_AT_ONCE = 16  # actors
_MAX_CALLBACKS_A_ROUND = 8  # replies and started work wake others: a whole batch at once stalls the loop
_TRIM_EVERY_TURNS = 1000

_Settled = Callable[[StoreFailed | None], None]


class _Group:
    """A batch that is being filled or written, and who waits for it."""

    __slots__ = ("batch", "callbacks", "cells", "error", "is_settled")

    def __init__(self) -> None:
        self.batch = Batch()
        self.callbacks: list[_Settled] = []
        self.cells: list[Cell] = []
        self.is_settled = False
        self.error: StoreFailed | None = None

    def __bool__(self) -> bool:
        return bool(self.callbacks or self.batch)

    async def durable(self) -> None:
        """Return once the batch is durable. Raises StoreFailed."""
        if not self.is_settled:
            settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.callbacks.append(lambda error: None if settled.done() else settled.set_result(None))
            await settled
        if self.error is not None:
            raise self.error


class _Durable:
    """Await it to know that a batch is durable; it costs nothing unless awaited."""

    __slots__ = ("_group", "_schedule")

    def __init__(self, group: _Group, schedule: Callable[[], None]) -> None:
        self._group = group
        self._schedule = schedule

    def __await__(self) -> Generator[Any, None, None]:
        self._schedule()  # else a group that holds nothing but this wish would wait for another's
        return self._group.durable().__await__()


class ExclusiveExecutor:
    """Runs turns in rounds of the event loop; one batch is filled while one is written."""

    def __init__(self, store: ExclusiveStore, around: Surroundings) -> None:
        self._store = store
        self._around = around
        self._cells = around.cells
        self._filling = _Group()
        self._writing = False
        self._ready: deque[Cell] = deque()
        self._callbacks: deque[_Settled] = deque()
        self._scheduled = False
        self._turns = self._in_place = 0
        self._numbers = itertools.count(1)
        self._unwritten: dict[ActorRef, list[tuple[str, int]]] = {}
        self._publishing: dict[str, asyncio.Event] = {}
        self.failure: StoreFailed | None = None

    def number_from(self, last_number: int) -> None:
        """Number messages after the last one of the store."""
        self._numbers = itertools.count(last_number + 1)

    # From outside

    def deliver(self, cell: Cell, delivery: Delivery) -> None:
        """Put a message or a call into the mailbox of an actor."""
        cell.mailbox.append(delivery)
        if not cell.queued:
            cell.queued = True
            self._ready.append(cell)
            self._schedule()

    def call(self, cell: Cell, message: Message) -> asyncio.Future[Any]:
        """Call an actor; the result is its reply. An idle one takes its turn at once, some in each round."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        delivery = Delivery(message, is_call=True, reply=reply)
        # In place only while nothing waits before it: an actor takes messages in the order of sending.
        if cell.queued or self._in_place == MAX_TURNS_A_ROUND or self.failure is not None:
            self.deliver(cell, delivery)
            return reply
        self._in_place += 1
        if cell.record is None:
            self._load([cell])
        self._turn(cell, delivery)
        self._schedule()
        return reply

    def send(self, message: Message) -> Awaitable[None]:
        """Take a message from outside; await it to know it durable."""
        self._post(message, remember=True)
        return self._queued()

    async def publish(self, event: Event) -> None:
        """Take an event from outside, unless one of its id is known; durable when this returns."""
        # One at a time: the log has an event only once its batch is written, so that both would miss it.
        while event.id in self._publishing:
            await self._publishing[event.id].wait()
        publication = self._publishing[event.id] = asyncio.Event()
        try:
            if not await self._store.knows_event(event.id):
                self._spread([event])
            await self._barrier()
        finally:
            publication.set()
            del self._publishing[event.id]

    def emit(self, events: Sequence[Event]) -> Awaitable[None]:
        """Take events that this process makes, in order; await it to know them durable."""
        self._spread(events)
        return self._queued()

    def append(self, record: Record, events: Sequence[Event]) -> Awaitable[None]:
        """Write a record with its events, before any later turn of its actor, unless it is written."""
        # Else the first value stands, and its events tell of it: others would contradict the record.
        if self._is_new(record):
            self._filling.batch.records.append(record)
            self._note([record])
            self._spread(events)
        return self._queued()

    async def load(self, ref: ActorRef) -> ActorRecord | None:
        """The committed record of an actor, with all that was handed in before."""
        cell = self._cells.active(ref)
        # A state that is read leaves the process, so it has to be durable as a reply has to be.
        if cell is not None and cell.pending:
            await self._barrier()
        if cell is not None and cell.record is not None:
            return cell.record
        return self._read([ref]).get(ref)

    recent = load

    async def settled(self, ref: ActorRef) -> None:
        """Return once the records of an actor that were handed in are durable."""
        if ref in self._unwritten:
            await self._barrier()

    async def drain(self) -> None:
        """Return once nothing is under way."""
        while self.failure is None and (self._ready or self._callbacks or not self._is_idle):
            await self._queued()

    async def abandon(self, error: Exception) -> None:
        """Stop at once, and tell all who wait."""
        for cell in self._cells:
            while cell.mailbox:
                settle(cell.mailbox.popleft().reply, None, error)
        self._ready.clear()

    def fail(self, error: StoreFailed) -> None:
        """Stop service: waiting callers get the error."""
        self.failure = error
        self._schedule()

    # Messages

    def _post(self, message: Message, *, remember: bool = False) -> None:
        """Deliver a message whose row is in the batch of its sender. One to a missing type waits as a row."""
        delivery = Delivery(message, next(self._numbers), remember)
        self._filling.batch.messages.append(delivery)
        if message.to.type in self._cells.kinds:
            self.deliver(self._cells.find(message.to), delivery)

    def _take(self, delivery: Delivery) -> None:
        """Note that a message was taken. If its batch is still filled, it never reaches the disk."""
        if delivery.number is None:
            return
        if delivery.is_written:
            self._filling.batch.taken_numbers.append(delivery.number)
        else:
            delivery.is_taken = True

    def _spread(self, events: Sequence[Event]) -> None:
        if events:
            spread, messages = self._around.bus.spread(events)
            self._filling.batch.events += spread
            for message in messages:
                self._post(message)

    # Records of streams

    def _is_new(self, record: Record) -> bool:
        """Whether that number is still free. Asks the store only if this process cannot know."""
        key = (record.stream, record.n)
        cell = self._cells.active(record.ref)
        # The store had nothing of this actor: all records of its streams were noted in its cell since.
        if cell is not None and cell.is_new:
            return key not in cell.stored
        if key in self._unwritten.get(record.ref, ()):
            return False
        return not self._store.has_record(record)

    def _note(self, records: Sequence[Record]) -> None:
        for record in records:
            key = (record.stream, record.n)
            self._unwritten.setdefault(record.ref, []).append(key)
            cell = self._cells.active(record.ref)
            if cell is not None:
                cell.stored.add(key)

    def _written(self, records: Sequence[Record]) -> None:
        for record in records:
            keys = self._unwritten[record.ref]
            keys.remove((record.stream, record.n))
            if not keys:
                del self._unwritten[record.ref]

    # Turns

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._round)

    def _round(self) -> None:
        """One round of the loop: some callbacks, some turns, then what they came to goes to the store."""
        self._scheduled = False
        self._in_place = 0
        for _ in range(min(_MAX_CALLBACKS_A_ROUND, len(self._callbacks))):
            self._callbacks.popleft()(self.failure)
        turns = 0
        ends_at = time.perf_counter() + _ROUND_SECONDS
        while self._ready and turns < MAX_TURNS_A_ROUND and time.perf_counter() < ends_at:
            count = min(len(self._ready), MAX_TURNS_A_ROUND - turns, _LOADED_AT_ONCE)
            cells = [self._ready.popleft() for _ in range(count)]
            with suppress(StoreFailed):  # the runtime has failed, and tells all who wait
                self._load([cell for cell in cells if cell.record is None])
            for cell in cells:
                self._turn(cell, cell.mailbox.popleft())
                cell.queued = bool(cell.mailbox)
                if cell.queued:
                    self._ready.append(cell)
            turns += len(cells)
        self._flush()
        # Behind `_flush`, so that the disk works while the next round runs.
        if self._ready or self._callbacks:
            self._schedule()

    def _load(self, cells: Sequence[Cell]) -> None:
        """Load cells together: a look-up lets go of the interpreter lock, which a busy neighbour takes."""
        if cells:
            stored = self._read([cell.ref for cell in cells])
            for cell in cells:
                cell.is_new = cell.ref not in stored
                self._cells.set_record(cell, stored.get(cell.ref) or ActorRecord())

    def _read(self, refs: Sequence[ActorRef]) -> dict[ActorRef, ActorRecord]:
        try:
            return dict(self._store.load(refs))
        except StoreFailed as error:
            self._around.fail(error)
            raise

    def _turn(self, cell: Cell, delivery: Delivery) -> None:
        if self.failure is not None:
            settle(delivery.reply, None, self.failure)
            return
        assert cell.record is not None
        try:
            commit = self._around.run(cell, cell.record, delivery)
        except Exception as error:  # noqa: BLE001 the sender gets whatever a turn raises; the actor is unchanged
            self._refuse(cell, delivery, error)
        else:
            self._commit(cell, delivery, commit)
        self._turns += 1
        if self._turns % _TRIM_EVERY_TURNS == 0:
            self._cells.trim()

    def _commit(self, cell: Cell, delivery: Delivery, commit: Commit) -> None:
        group = self._filling
        self._take(delivery)
        if commit.changed:
            self._cells.set_record(cell, commit.record)
            cell.pending += 1
            group.cells.append(cell)
            group.batch.actors[cell.ref] = commit.record
            if commit.records:
                group.batch.records += commit.records
                self._note(commit.records)
            for message in commit.sends:
                self._post(message)
            if commit.events:
                self._spread(commit.events)
            if commit.record.wake_at is not None:
                self._around.timers.note(cell.ref, commit.record.wake_at)
        # Before the disk: a crash forgets the signal with the commit, and `recover` asks for it again.
        if commit.early:
            self._around.signal(cell.ref, commit.early)
        if commit.after_commit:
            group.callbacks.append(partial(self._signal_after, commit))
        if delivery.reply is not None:
            self._settle_durably(cell, delivery.reply, commit.reply, None)

    def _refuse(self, cell: Cell, delivery: Delivery, error: Exception) -> None:
        if delivery.is_call:
            self._settle_durably(cell, delivery.reply, None, error)
            return
        self._take(delivery)
        self._spread([dead_letter(delivery.message, error, self._around.clock.now())])
        if delivery.message.method == "wake" and cell.record is not None:
            self._commit(cell, delivery, without_alarm(cell.record, delivery.message, cell.ref))
        self._settle_durably(cell, delivery.reply, None, None)

    def _settle_durably(
        self, cell: Cell, reply: asyncio.Future[Any] | None, result: Any, error: Exception | None
    ) -> None:
        """Answer once the state that the answer rests on is durable."""
        # Also for a turn that only read: it may have read what an earlier turn changed.
        if cell.pending:
            self._filling.callbacks.append(lambda failure: settle(reply, result, failure or error))
        else:
            settle(reply, result, error)

    def _signal_after(self, commit: Commit, failure: StoreFailed | None) -> None:
        if failure is None:
            self._around.signal(commit.ref, commit.after_commit)
        else:
            commit.give_back()

    # Commits

    @property
    def _is_idle(self) -> bool:
        return not self._writing and not self._filling

    async def _barrier(self) -> None:
        """Return once everything handed in so far is durable. Raises StoreFailed."""
        if self.failure is not None:
            raise self.failure
        if not self._is_idle:
            await self._queued()

    def _queued(self) -> _Durable:
        """Await it to know everything handed in so far durable."""
        self._schedule()
        return _Durable(self._filling, self._schedule)

    def _flush(self) -> None:
        """Hand the filled batch over; while the store is busy it waits, and grows."""
        # One write at a time: a batch rests on the one before it, and fails with it (`_settled`).
        if not self._filling or self._writing:
            return
        group, self._filling = self._filling, _Group()
        self._writing = True
        batch = group.batch
        batch.messages = [delivery for delivery in batch.messages if not delivery.is_taken]
        for delivery in batch.messages:
            delivery.is_written = True
        try:
            self._store.write(batch, partial(self._settled, group))
        except Exception as error:  # whatever it is: those who wait for the commit must not wait for ever
            logger.exception("a commit cannot be written")
            self._settled(group, StoreFailed(f"A commit cannot be written: {type(error).__name__}: {error}"))

    def _settled(self, group: _Group, error: StoreFailed | None) -> None:
        self._writing = False
        group.is_settled, group.error = True, error
        if error is not None:
            self._filling.is_settled, self._filling.error = True, error  # it is behind this one
            for failed in (group, self._filling):
                self._callbacks.extend(failed.callbacks)
                failed.callbacks.clear()
            self._around.fail(error)
            return
        # First: telling those who wait takes longer, and the store has nothing to do. But turns that wait go
        # before: a message that is taken in the batch that sends it is never written.
        if not self._ready:
            self._flush()
        for cell in group.cells:
            cell.pending -= 1
        self._written(group.batch.records)
        if self._cells.are_too_many:
            self._cells.trim()
        self._callbacks.extend(group.callbacks)
        self._schedule()

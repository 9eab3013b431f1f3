"""Turns on a store that others write too: nothing runs ahead of a commit.

An actor takes what waits for it in one go: the turns run one after another on its record, and one
compare-and-swap commits them all. If another worker's commit came first, the record is loaded again and
the turns run again: they are plain functions.

If the store `joins_actors`, receivers that are in this process and idle take the messages of these turns in
the same commit, and so on: a task is accepted, and put into its thread, by one commit. After a conflict the
first actor commits alone, and its messages are sent.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Coroutine, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from meshwright.core.errors import Conflict, StoreFailed, StoreUnavailable
from meshwright.core.events import Event
from meshwright.core.patience import is_patient
from meshwright.engine.kernel.cells import Cell, Surroundings, settle, without_alarm
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message, Record
from meshwright.engine.kernel.guarantees import dead_letter
from meshwright.engine.kernel.store import AlreadyTaken, Batch, Delivery, SharedStore
from meshwright.engine.kernel.turns import Commit

MAX_TURNS_A_COMMIT = 32
_MAX_RECEIVERS = 32  # in the commit of one sender
_CONFLICT_PAUSE_SECONDS = 0.02
RETRY_SECONDS = 0.5
DRAIN_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class _Visit:
    """The turns of one actor, and what they came to."""

    cell: Cell
    before: ActorRecord
    record: ActorRecord
    batch: Batch = field(default_factory=Batch)
    ends: list[tuple[Delivery, Commit | Exception]] = field(default_factory=list)


class SharedExecutor:
    """Runs turns in a task for each actor that has something to do."""

    def __init__(self, store: SharedStore, around: Surroundings) -> None:
        self._store = store
        self._around = around
        self._cells = around.cells
        self._tasks: set[asyncio.Task[Any]] = set()
        self._appends: dict[ActorRef, set[asyncio.Task[None]]] = {}
        self._emitted: tuple[list[Event], asyncio.Task[None]] | None = None
        self._ending: Exception | None = None

    # From outside

    def deliver(self, cell: Cell, delivery: Delivery) -> None:
        """Put a message or a call into the mailbox of an actor."""
        if self._ending is not None:
            settle(delivery.reply, None, self._ending)
            return
        cell.mailbox.append(delivery)
        if not cell.queued:
            cell.queued = True
            self._begin(self._work(cell), f"turns of {cell.ref}")

    def call(self, cell: Cell, message: Message) -> asyncio.Future[Any]:
        """Call an actor; the result is its reply."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.deliver(cell, Delivery(message, is_call=True, reply=reply, is_patient=is_patient()))
        return reply

    def send(self, message: Message) -> Awaitable[None]:
        """Take a message from outside; await it to know it durable."""
        sending = self._commit(Batch(messages=[Delivery(message, remember=True)]))
        if message.to.type in self._cells.kinds:
            cell = self._cells.find(message.to)
            # Counted until it is durable, so that a mailbox takes no more than it may.
            cell.arriving += 1
            sending.add_done_callback(partial(_arrived, cell))
        return _DurableCommit(sending)

    async def hand_over(self, message: Message, worker: str) -> None:
        """Leave a message to an actor for another worker; durable when this returns."""
        await _DurableCommit(self._commit(Batch(messages=[Delivery(message, worker=worker)])))

    async def publish(self, event: Event) -> None:
        """Take an event from outside, unless one of its id is known; durable when this returns."""
        await _DurableCommit(self._commit(Batch(events=[event], unless=event.id)))

    def emit(self, events: Sequence[Event]) -> Awaitable[None]:
        """Take events that this process makes, in order; await it to know them durable.

        The events of one turn of the loop are one commit, unless another commit was begun in between.
        """
        if self._emitted is None:
            batch = Batch()
            self._emitted = batch.events, self._commit(batch)
        gathered, commit = self._emitted
        gathered += events
        return _DurableCommit(commit)

    def append(
        self, record: Record, events: Sequence[Event], *, outlives_lease: bool = False
    ) -> Awaitable[None]:
        """Write a record with its events, before any later turn of its actor, unless it is written.

        While the store is away it is tried again, as long as this incarnation lasts, or `outlives_lease`
        longer: the store drops a repeat. Awaiting it awaits the records of the actor that were handed in
        before, too.
        """
        batch = Batch(records=[record], events=list(events), unless=record)
        self._emitted = None
        earlier = [*self._appends.get(record.ref, ())]
        writing = self._begin(self._written(batch, earlier, outlives_lease=outlives_lease), "commit")
        # Known before it is durable: a turn of the actor that commits meanwhile waits for it.
        self._appends.setdefault(record.ref, set()).add(writing)
        writing.add_done_callback(partial(self._appended, record.ref))
        return _DurableCommit(writing)

    async def _written(
        self, batch: Batch, earlier: Sequence[asyncio.Task[None]], *, outlives_lease: bool
    ) -> None:
        self._spread(batch)
        incarnation = self._around.incarnation()
        while True:
            try:
                await self._store_batch(batch)
                break
            except StoreUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
                if incarnation != self._around.incarnation() and not outlives_lease:
                    raise  # the claim that wrote it is over
        for writing in earlier:
            await writing

    def _appended(self, ref: ActorRef, writing: asyncio.Task[None]) -> None:
        self._appends[ref].discard(writing)
        if not self._appends[ref]:
            del self._appends[ref]

    async def load(self, ref: ActorRef) -> ActorRecord | None:
        """The committed record of an actor."""
        return await self._store.load(ref, None)

    async def recent(self, ref: ActorRef) -> ActorRecord | None:
        """The same, or the record that was committed here last, if the store shows what others commit."""
        cell = self._cells.active(ref) if self._store.shows_moves else None
        is_known = cell is not None and cell.record is not None and cell.record.revision
        return cell.record if cell is not None and is_known else await self.load(ref)

    def moved(self, ref: ActorRef) -> None:
        """Forget the record of an actor that another process has committed."""
        cell = self._cells.active(ref)
        if cell is not None and cell.idle:
            self._cells.forget(cell)

    async def settled(self, ref: ActorRef) -> None:
        """Return once the records of an actor that were handed in are durable."""
        if ref in self._appends:
            await asyncio.gather(*self._appends[ref], return_exceptions=True)

    async def drain(self) -> None:
        """Return once nothing is under way, or after some seconds: the rest goes on at the next start."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    async def abandon(self, error: Exception) -> None:
        """Stop at once, and tell all who wait."""
        self._ending = error
        self._emitted = None
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        for cell in self._cells:
            _refuse_mailbox(cell, error)

    def fail(self, error: StoreFailed) -> None:
        """Stop service: waiting callers get the error."""
        self._ending = error
        for cell in self._cells:
            _refuse_mailbox(cell, error)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Turns

    async def _work(self, cell: Cell) -> None:
        conflicts = 0
        try:
            while cell.mailbox:
                size = min(len(cell.mailbox), MAX_TURNS_A_COMMIT)
                deliveries = [cell.mailbox.popleft() for _ in range(size)]
                conflicts = 0 if await self._try(cell, deliveries, joins=not conflicts) else conflicts + 1
                if conflicts > 1:  # another worker is at the same actor: one of us has to wait
                    pause = _CONFLICT_PAUSE_SECONDS * random.uniform(0.5, min(conflicts, 10))
                    await asyncio.sleep(pause)
        except Exception as error:  # a defect of ours: nothing can be promised any more
            self._around.fail(StoreFailed(f"turns of {cell.ref}: {error!r}"))
            raise
        finally:
            cell.queued = False
        if self._cells.are_too_many:
            self._cells.trim()

    async def _try(self, cell: Cell, deliveries: Sequence[Delivery], *, joins: bool) -> bool:
        """One go; whether it came to an end, or has to be made again."""
        try:
            await self._visit(cell, deliveries, joins=joins and self._store.joins_actors)
        except Conflict as error:
            # Loaded again: the turns run on the record as others left it, but for messages they have taken.
            self._cells.forget(cell)
            taken_numbers = error.numbers if isinstance(error, AlreadyTaken) else frozenset[int]()
            again = [delivery for delivery in deliveries if delivery.number not in taken_numbers]
            cell.mailbox.extendleft(reversed(again))
            return bool(taken_numbers)
        except Exception as error:  # noqa: BLE001 waiting callers get every error of the store
            self._cells.forget(cell)
            await self._failed(cell, deliveries, error)
        except asyncio.CancelledError:
            _refuse_all(deliveries, self._ending)
            raise
        return True

    async def _failed(self, cell: Cell, deliveries: Sequence[Delivery], error: Exception) -> None:
        """Fail the waiting callers, and retry deliveries without a caller after a short pause."""
        if isinstance(error, StoreFailed):
            _refuse_all(deliveries, error)
            self._around.fail(error)
            return
        is_away = isinstance(error, StoreUnavailable)
        retries = [delivery for delivery in deliveries if _is_retried(delivery, is_away=is_away)]
        _refuse_all([delivery for delivery in deliveries if delivery not in retries], error)
        if retries:
            cell.mailbox.extendleft(reversed(retries))
            await asyncio.sleep(RETRY_SECONDS)

    async def _visit(self, cell: Cell, deliveries: Sequence[Delivery], *, joins: bool) -> None:
        if cell.record is None:
            record = await self._store.load(cell.ref, deliveries[0].message)
            self._cells.set_record(cell, record or ActorRecord())
            if record is not None and record.wake_at is not None:
                self._around.timers.note(cell.ref, record.wake_at)
        assert cell.record is not None
        # As of the turns: if it changes until they are durable, their signals are not for the new one.
        incarnation = self._around.incarnation()
        visit = _Visit(cell, cell.record, cell.record)
        receivers: list[_Visit] = []
        try:
            for delivery in deliveries:
                self._turn(visit, delivery)
            self._complete(visit)
            # A turn may refer to records that were handed in before it: they are written first.
            await self.settled(cell.ref)
            if joins and incarnation == self._around.incarnation():
                receivers = self._join(visit)
            if visit.batch:
                await self._store.commit(visit.batch)
                for one in (visit, *receivers):
                    self._cells.set_record(one.cell, one.record)
        except BaseException:  # passed on: what these would have taken is sent to them instead
            for one in receivers:
                self._cells.forget(one.cell)
            for commit in _commits([visit, *receivers]):
                commit.give_back()
            raise
        finally:
            for one in receivers:
                self._release(one.cell)
        for one in (visit, *receivers):
            self._hand_out(one, is_same=incarnation == self._around.incarnation())

    def _join(self, first: _Visit) -> list[_Visit]:
        """Let idle receivers take the messages of the first visit, and add their turns to its batch.

        Messages to one receiver go one way, so that they stay in order.
        """
        batch = first.batch
        receivers: dict[ActorRef, _Visit] = {}
        apart = {first.cell.ref}
        waiting = deque(batch.messages)
        batch.messages.clear()
        while waiting:
            delivery = waiting.popleft()
            to = delivery.message.to
            if to not in apart and to not in receivers:
                visit = self._occupy(delivery.message) if len(receivers) < _MAX_RECEIVERS else None
                if visit is not None:
                    receivers[to] = visit
            visit = receivers.get(to)
            if to in apart or visit is None or len(visit.ends) == MAX_TURNS_A_COMMIT:
                apart.add(to)
                batch.messages.append(delivery)
                continue
            visit.batch = Batch()
            self._turn(visit, delivery)
            self._spread(visit.batch)
            waiting += visit.batch.messages
            batch.records += visit.batch.records
            batch.events += visit.batch.events
        for ref, visit in receivers.items():
            if visit.record is not visit.before:
                batch.actors[ref] = visit.record
            batch.expected[ref] = visit.before.revision
            batch.ahead.add(ref)
        return [*receivers.values()]

    def _occupy(self, message: Message) -> _Visit | None:
        """Begin a visit of an actor, unless it is elsewhere, busy or to be read from the store."""
        to = message.to
        kind = self._cells.kinds.get(to.type)
        # Records of the receiver that are under way come before its turns, and a commit waits for none here.
        if kind is None or message.method not in kind.methods or to in self._appends:
            return None
        cell = self._cells.active(to)
        # Its own turns are under way or come first: this message would overtake them.
        if cell is not None and (not cell.idle or cell.mailbox):
            return None
        if cell is None or cell.record is None:
            if not self._store.seems_new(message):
                return None
            cell = self._cells.find(to)
            self._cells.set_record(cell, ActorRecord())
        assert cell.record is not None
        cell.queued = True
        return _Visit(cell, cell.record, cell.record)

    def _release(self, cell: Cell) -> None:
        """Let an actor that was occupied take what came meanwhile."""
        cell.queued = bool(cell.mailbox) and self._ending is None
        if cell.queued:
            self._begin(self._work(cell), f"turns of {cell.ref}")

    def _turn(self, visit: _Visit, delivery: Delivery) -> None:
        cell, batch, message = visit.cell, visit.batch, delivery.message
        if delivery.number is not None:
            if delivery.number in batch.taken_numbers:
                return  # the same message again
            batch.taken_numbers.append(delivery.number)
        end: Commit | Exception
        try:
            end = self._around.run(cell, visit.record, delivery)
        except Exception as error:  # noqa: BLE001 the sender gets whatever a turn raises; the actor is unchanged
            end = error
            if not delivery.is_call:
                batch.events.append(dead_letter(message, error, self._around.clock.now()))
                if message.method == "wake":
                    end = without_alarm(visit.record, message, cell.ref)
        if isinstance(end, Commit) and end.changed:
            visit.record = end.record
            batch.messages += [Delivery(sent) for sent in end.sends]
            batch.records += end.records
            batch.events += end.events
        visit.ends.append((delivery, end))

    def _complete(self, visit: _Visit) -> None:
        """Say what the batch rests on. An actor that keeps nothing and changed nothing rests on nothing."""
        cell, batch = visit.cell, visit.batch
        if visit.record is not visit.before:
            batch.actors[cell.ref] = visit.record
            if cell.ref.type not in self._cells.kinds:  # its signals are for a process that runs its type
                recover = Message(f"recover/{cell.ref}/{visit.record.revision}", cell.ref, "recover")
                batch.messages.append(Delivery(recover))
        elif cell.kind.is_stateless:
            return self._spread(batch)
        batch.expected[cell.ref] = visit.before.revision
        return self._spread(batch)

    def _hand_out(self, visit: _Visit, *, is_same: bool) -> None:
        """Only now does anything leave.

        Signals of turns that ran under another incarnation were for that one: the actor is asked to recover.
        """
        cell, before = visit.cell, visit.before
        commits = _commits([visit])
        if is_same:
            for commit in commits:
                self._around.signal(cell.ref, commit.early)
        if visit.record is not before and visit.record.wake_at is not None:
            self._around.timers.note(cell.ref, visit.record.wake_at)
        if is_same:
            for commit in commits:
                self._around.signal(cell.ref, commit.after_commit)
        else:
            for commit in commits:
                commit.give_back()
            if visit.record.has_pending_work:
                self._around.recover(cell.ref)
        for delivery, end in visit.ends:
            if isinstance(end, Commit):
                settle(delivery.reply, end.reply if delivery.is_call else None, None)
            else:
                settle(delivery.reply, None, end if delivery.is_call else None)

    # Commits

    def _commit(self, batch: Batch) -> asyncio.Task[None]:
        # Events that came after this commit must not join a group before it: they would overtake it.
        self._emitted = None
        return self._begin(self._committed(batch), "commit")

    async def _committed(self, batch: Batch) -> None:
        self._emitted = None  # the batch is on its way: later events begin another
        self._spread(batch)
        await self._store_batch(batch)

    async def _store_batch(self, batch: Batch) -> None:
        if self._ending is not None:
            raise self._ending
        try:
            await self._store.commit(batch)
        except StoreFailed as error:
            self._around.fail(error)
            raise

    def _spread(self, batch: Batch) -> None:
        """Make messages of events for their subscribers, where no broker brings them."""
        if batch.events and not self._store.routes_events:
            batch.events, messages = self._around.bus.spread(batch.events)
            batch.messages += [Delivery(message) for message in messages]


class _DurableCommit:
    """A commit that callers may await: cancelling a caller does not undo it, and awaiting it is optional."""

    __slots__ = ("_writing",)

    def __init__(self, writing: asyncio.Task[None]) -> None:
        self._writing = writing
        writing.add_done_callback(_retrieve_error)

    def __await__(self) -> Generator[Any, None, None]:
        return asyncio.shield(self._writing).__await__()


def _retrieve_error(commit: asyncio.Task[None]) -> None:
    """Retrieve an error that may have no waiting caller."""
    if not commit.cancelled():
        commit.exception()


def _arrived(cell: Cell, sending: asyncio.Task[None]) -> None:
    cell.arriving -= 1


def _commits(visits: Iterable[_Visit]) -> list[Commit]:
    """The turns of visits that ran to their end."""
    return [end for visit in visits for _, end in visit.ends if isinstance(end, Commit)]


def _is_retried(delivery: Delivery, *, is_away: bool) -> bool:
    reply = delivery.reply
    return reply is None or (is_away and delivery.is_patient and not reply.done())


def _refuse_all(deliveries: Iterable[Delivery], error: Exception | None) -> None:
    """Tell waiting callers that it did not happen, or that its result is unknown."""
    for delivery in deliveries:
        settle(delivery.reply, None, error)


def _refuse_mailbox(cell: Cell, error: Exception) -> None:
    _refuse_all(cell.mailbox, error)
    cell.mailbox.clear()

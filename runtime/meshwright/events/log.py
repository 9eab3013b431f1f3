"""The event log: append-only, numbered by `seq` in the order of commit, searched, replayed and followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from meshwright import topics
from meshwright.clock import Clock, SystemClock
from meshwright.errors import StoreFailed
from meshwright.events import table
from meshwright.events.filter import EventFilter
from meshwright.events.projections import Projection, Projections
from meshwright.events.table import MAX_BYTES_READ, Found
from meshwright.events.tails import Tails
from meshwright.events.tasks import (
    TaskPage,
    TaskProjection,
    delete_ended_tasks,
    list_tasks,
    open_tasks,
    position_of,
)
from meshwright.messages import Event, new_id
from meshwright.sql.database import Database, Job, Session
from meshwright.sql.mark import Loss

ResultT = TypeVar("ResultT")
ArgumentsP = ParamSpec("ArgumentsP")
_MAX_FOUND = 500  # events read in one go


class Page(NamedTuple):
    """Events in order. Behind `next_seq` (descending: before it) there may be more; None at the end."""

    events: list[Event]
    next_seq: int | None


class EventLog:
    """The log in a database. One writer numbers the events: `insert` and `append` are all that writes them.

    An event that is durable is never changed, and its `seq` never given to another; old ones may be pruned.
    """

    def __init__(
        self, database: Database, *, projections: Sequence[Projection] = (), clock: Clock | None = None
    ) -> None:
        self._database = database
        self._projections = Projections((TaskProjection(), *projections), exclusive=database.exclusive)
        self._tails = Tails(self._search)
        self._now = (clock or SystemClock()).now

    def add(self, *projections: Projection) -> None:
        """Make these projections too. Call it before the start."""
        self._projections.add(projections)

    async def start(self) -> None:
        """Find the end of the log. The database is open already, and nothing has been inserted."""
        while await self._database.write(table.summarize_some):
            pass
        self._tails.announced = await self._database.write(self._resume)
        await self._projections.start(self._database)

    def _resume(self, session: Session) -> int:
        if loss := self._database.accepted_loss:
            table.skip_to(session, loss.marked_seq, self._now().timestamp())
            self._write(session, [self._loss_accepted(loss)], [None])
        return table.newest(session)

    def _loss_accepted(self, loss: Loss) -> Event:
        return Event(
            id=new_id(),
            event_type="store.loss_accepted",
            topic=topics.MESH,
            time=self._now(),
            payload={
                "last_seq": loss.seq,
                "lost_until_seq": loss.marked_seq,
                "lost_events": max(0, loss.marked_seq - loss.seq),
                "lost_tasks": max(0, loss.marked_tasks - loss.tasks),
                "replaced": loss.replaced,
            },
        )

    def close(self) -> None:
        """End all tails, once each has given out what it holds. Call it before the database is closed."""
        self._tails.close()

    @property
    def readers(self) -> int:
        """How many tails are open."""
        return len(self._tails)

    # Writing

    def insert(self, session: Session, events: Sequence[Event]) -> list[Event]:
        """Number and write events within a transaction of the writer's thread, and keep the projections.

        Returns the events that were written, with their `seq`: the same objects, since nobody else may
        number them. Left out are those whose id is known; an id that begins with the actor the event is of
        is not looked up, since an actor counts what it sends. Never fails for what is in an event. Call
        `committed` once the transaction is durable.
        """
        return self._write(session, events, [table.own_id(event) for event in events])

    def committed(self, events: Sequence[Event]) -> None:
        """Show inserted events, now durable, to the tails. Call it on the event loop."""
        self._tails.announce(events)

    async def append(self, events: Sequence[Event]) -> list[Event]:
        """Write events from outside in a transaction of their own; those whose id is known are dropped.

        Returns those that were written, durable, with their `seq`. Raises StoreFailed.
        """
        job = _Append(self, events)
        self._database.submit(job)
        return await job.future

    def append_in(self, session: Session, events: Sequence[Event]) -> list[Event]:
        """Do what `append` does within a transaction of the writer's thread."""
        return self._write(session, events, [None] * len(events))

    def _write(self, session: Session, events: Sequence[Event], own_ids: Sequence[str | None]) -> list[Event]:
        written, size = table.insert(session, events, own_ids, self._now().timestamp())
        self._database.count_accepted(sum(event.event_type == "task.accepted" for event in written))
        self._projections.apply(session, written, size)
        return written

    # Reading

    async def query(self, wanted: EventFilter) -> list[Event]:
        """Up to `limit` events that fit, in the filter's order, however large. Payloads are plain data."""
        page = await self.page(wanted)
        events = page.events
        while page.next_seq is not None and len(events) < wanted.limit:
            bound = "before_seq" if wanted.order == "desc" else "after_seq"
            rest = {bound: page.next_seq, "limit": wanted.limit - len(events)}
            page = await self.page(wanted.model_copy(update=rest))
            events += page.events
        return events

    async def page(self, wanted: EventFilter) -> Page:
        """The first events that fit, in the filter's order: up to `limit`, and to `MAX_BYTES_READ`."""
        first, last = wanted.first(), wanted.last(self._tails.announced)
        events: list[Event] = []
        size = 0
        while first <= last and len(events) < wanted.limit and size < MAX_BYTES_READ:
            limit = min(wanted.limit - len(events), _MAX_FOUND)
            found = await self._search(wanted, first, last, limit, MAX_BYTES_READ - size)
            events += found.events
            size += found.size
            if wanted.order == "desc":
                last = found.reached - 1
            else:
                first = found.reached + 1
        is_cut = len(events) == wanted.limit or size >= MAX_BYTES_READ
        return Page(events, events[-1].seq if is_cut else None)

    async def replay(self, wanted: EventFilter) -> AsyncGenerator[Event]:
        """All events that fit, as far as the log goes now, however many: of an aggregate its story."""
        wanted = wanted.model_copy(update={"order": "asc"})
        first, last = wanted.first(), wanted.last(self._tails.announced)
        while first <= last:
            found = await self._search(wanted, first, last)
            for event in found.events:
                yield event
            first = found.reached + 1

    def tail(self, wanted: EventFilter) -> AsyncGenerator[Event]:
        """The events that fit after `after_seq` (without it: from now on), and then those to come, for ever.

        None is skipped and none repeated: with the last `seq` that was seen as `after_seq` a reader goes
        on where it stopped. A slow reader slows nobody; close the generator to end it.
        """
        return self._one_by_one(self.follow(wanted))

    def follow(self, wanted: EventFilter, *, live: bool = False) -> AsyncGenerator[list[Event]]:
        """As `tail`, but all events that are ready at a time.

        A `live` reader also gets the unlogged events that `show` is given: without `seq`, each in its place,
        and only while it keeps up.
        """
        return self._follow(wanted, self._tails.announced, live)

    def show(self, event: Event) -> None:
        """Give an event that is not logged to the live readers. Call it on the event loop."""
        self._tails.show(event)

    async def _one_by_one(self, batches: AsyncGenerator[list[Event]]) -> AsyncGenerator[Event]:
        async with aclosing(batches):
            async for batch in batches:
                for event in batch:
                    yield event

    async def _follow(self, wanted: EventFilter, now: int, live: bool) -> AsyncGenerator[list[Event]]:
        position = now if wanted.after_seq is None else wanted.after_seq
        if position > self._tails.announced:  # ahead of us, or of a log that has begun anew
            position = min(position, await self._database.read(table.newest))
        async with aclosing(self._tails.follow(wanted, position, live=live)) as batches:
            async for batch in batches:
                yield batch

    async def _search(
        self,
        wanted: EventFilter,
        first: int,
        last: int,
        limit: int = _MAX_FOUND,
        max_bytes: int = MAX_BYTES_READ,
    ) -> Found:
        return await self._database.read(table.search, wanted, first, last, limit, max_bytes)

    async def knows(self, event_id: str) -> bool:
        """Whether an event of that id is in the log and durable."""
        return await self._database.read(table.knows, event_id)

    async def last_seq(self) -> int:
        """The `seq` of the newest durable event, 0 if there is none."""
        return self._tails.announced

    async def tasks(
        self,
        *,
        tenant_id: str,
        status: str | None = None,
        capability: str | None = None,
        task_id: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> TaskPage:
        """A page of a tenant's tasks, newest first, at most 1,000; `task_id` is an end or a beginning of ids.

        Raises InvalidInput for a wrong cursor.
        """
        return await self.view(list_tasks, tenant_id, status, capability, task_id, limit, position_of(cursor))

    async def open_tasks(self) -> list[tuple[str, str, str | None]]:
        """(tenant_id, task_id, thread_id) of every task that has no outcome."""
        return await self.view(open_tasks)

    async def view(
        self,
        function: Callable[Concatenate[Any, ArgumentsP], ResultT],
        *args: ArgumentsP.args,
        **kwargs: ArgumentsP.kwargs,
    ) -> ResultT:
        """Call `function(session, ...)` on projections that have every durable event."""
        await self.flush()
        return await self._database.read(function, *args, **kwargs)

    async def view_apart(
        self,
        function: Callable[Concatenate[Any, ArgumentsP], ResultT],
        *args: ArgumentsP.args,
        **kwargs: ArgumentsP.kwargs,
    ) -> ResultT:
        """The same for a function that may take a second: no other reader waits for it."""
        await self.flush()
        return await self._database.read_apart(function, *args, **kwargs)

    async def flush(self) -> None:
        """Fold every durable event into the projections."""
        await self._database.write(self._projections.flush)

    # Upkeep

    async def rebuild(self) -> None:
        """Make the projections anew from the log. Lists are incomplete meanwhile; events go on coming in."""
        await self._projections.rebuild(self._database)

    async def prune(self, *, keep_seconds: float | None = None, max_events: int | None = None) -> int:
        """Delete the oldest events, block by block between other writes; returns how many.

        An event that was written within `keep_seconds`, or is among the newest `max_events`, stays; up to
        2,047 more may. Ended tasks leave the list with their last event.
        """
        if keep_seconds is None and max_events is None:
            return 0
        written_before = float("inf") if keep_seconds is None else self._now().timestamp() - keep_seconds
        end = self._tails.announced - max(max_events or 0, 1)  # the newest says where the log has come to
        await self.flush()
        deleted = 0
        for block in await self._database.read(table.old_blocks, end, written_before):
            deleted += await self._database.write(_prune_block, block)
        return deleted


class _Append(Job):
    """Events to write, and the future of those that were."""

    def __init__(self, log: EventLog, events: Sequence[Event]) -> None:
        self.future: asyncio.Future[list[Event]] = asyncio.get_running_loop().create_future()
        self._log = log
        self._events = events
        self._written: list[Event] = []

    def apply(self, session: Session) -> None:
        self._written = self._log.append_in(session, self._events)

    def done(self, error: StoreFailed | None) -> None:
        if error is None:
            self._log.committed(self._written)
        if self.future.done():
            return  # its waiter was cancelled
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self._written)


def _prune_block(session: Session, block: int) -> int:
    deleted = table.delete_block(session, block)
    delete_ended_tasks(session, table.end_of(block))
    return deleted

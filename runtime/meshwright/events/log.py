"""The event log: append-only, numbered by `seq` in the order of commit, searched, replayed and followed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, closing
from datetime import datetime
from functools import partial
from typing import NamedTuple

from meshwright import topics
from meshwright.clock import Clock, SystemClock
from meshwright.errors import StoreFailed
from meshwright.events.blocks import Blocks, block_of, delete_block, first_of
from meshwright.events.filter import EventFilter
from meshwright.events.projections import Projections, delete_ended_tasks, recent_outcomes
from meshwright.events.search import MAX_BYTES_READ, PAYLOAD, Found, has_own_id, search
from meshwright.events.table import INTO, Row, known_ids, own_id, row_of, write_rows
from meshwright.events.tails import Tails
from meshwright.events.tasks import TaskPage, list_tasks, open_tasks, position_of
from meshwright.ledger.costs import By, Costs, sum_costs
from meshwright.messages import Event, new_id
from meshwright.storage.database import Database, Job
from meshwright.storage.mark import Loss

MAX_FOUND = 500  # events read in one go


class Page(NamedTuple):
    """Events in order. Behind `next_seq` (descending: before it) there may be more; None at the end."""

    events: list[Event]
    next_seq: int | None


class EventLog:
    """The log in a database. One writer numbers the events: `insert` and `append` are all that writes them.

    An event that is durable is never changed, and its `seq` never given to another; old ones may be pruned.
    """

    def __init__(self, database: Database, *, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._database = database
        self._blocks = Blocks(lambda: clock.now().timestamp())
        self._projections = Projections()
        self._tails = Tails(self._search)
        self._seq = 0  # the last one given out; the writer thread's own
        self._now = clock.now

    async def start(self) -> None:
        """Find the end of the log. The database is open already, and nothing has been inserted."""
        self._tails.announced = await self._database.write(self._resume)
        await self._projections.start(self._database)

    def _resume(self, connection: sqlite3.Connection) -> int:
        self._seq = _newest(connection)
        self._blocks.resume(connection, self._seq)
        if loss := self._database.accepted_loss:
            self._seq = max(self._seq, loss.marked_seq)  # a number that was given is not given again
            self._write(connection, [self._loss_accepted(loss)], [None])
        return self._seq

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

    def insert(self, connection: sqlite3.Connection, events: Sequence[Event]) -> list[Event]:
        """Number and write events within a transaction of the writer's thread, and keep the projections.

        Returns the events that were written, with their `seq`: the same objects, since nobody else may
        number them. Left out are those whose id is known; an id that begins with the actor the event is of
        is not looked up, since an actor counts what it sends. Never fails for what is in an event. Call
        `committed` once the transaction is durable.
        """
        return self._write(connection, events, [own_id(event) for event in events])

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

    def append_in(self, connection: sqlite3.Connection, events: Sequence[Event]) -> list[Event]:
        """Do what `append` does within a transaction of the writer's thread."""
        return self._write(connection, events, [None] * len(events))

    def _write(
        self, connection: sqlite3.Connection, events: Sequence[Event], own_ids: Sequence[str | None]
    ) -> list[Event]:
        known: set[str] = set()
        if None in own_ids:
            others = [event.id for event, own in zip(events, own_ids, strict=True) if own is None]
            known = known_ids(connection, others)
        written: list[Event] = []
        rows: list[Row] = []
        for event, own in zip(events, own_ids, strict=True):
            if own is None:
                if event.id in known:
                    continue
                known.add(event.id)
            self._seq += 1
            event.__dict__["seq"] = self._seq  # frozen to all others: the number is the log's to give
            written.append(event)
            rows.append(row_of(event, own))
        if rows:
            write_rows(connection, INTO, rows)
            self._database.count_accepted(sum(event.event_type == "task.accepted" for event in written))
            self._blocks.add(connection, rows)
            self._projections.apply(connection, written, sum(len(row[PAYLOAD]) for row in rows))
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
            limit = min(wanted.limit - len(events), MAX_FOUND)
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
            position = min(position, await self._database.read(_newest))
        async with aclosing(self._tails.follow(wanted, position, live=live)) as batches:
            async for batch in batches:
                yield batch

    async def _search(
        self,
        wanted: EventFilter,
        first: int,
        last: int,
        limit: int = MAX_FOUND,
        max_bytes: int = MAX_BYTES_READ,
    ) -> Found:
        look = partial(search, wanted=wanted, first=first, last=last, limit=limit, max_bytes=max_bytes)
        return await self._database.read(look)

    async def knows(self, event_id: str) -> bool:
        """Whether an event of that id is in the log and durable."""
        return await self._database.read(partial(_knows, event_id=event_id, newest=self._tails.announced))

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
        page = partial(
            list_tasks,
            tenant_id=tenant_id,
            status=status,
            capability=capability,
            task_id=task_id,
            limit=limit,
            before=position_of(cursor),
        )
        await self._database.write(self._projections.flush)
        return await self._database.read(page)

    async def open_tasks(self) -> list[tuple[str, str, str | None]]:
        """(tenant_id, task_id, thread_id) of every task that has no outcome."""
        await self._database.write(self._projections.flush)
        return await self._database.read(open_tasks)

    async def recent_outcomes(self, last: int = 20) -> list[tuple[str, str, bool]]:
        """(agent_id, capability, success) of the last attempts, at most 20 of each pair, oldest first."""
        await self._database.write(self._projections.flush)
        return await self._database.read(partial(recent_outcomes, last=last))

    async def costs(
        self,
        *,
        tenant_id: str | None,
        by: By = "agent",
        since: datetime | None = None,
        limit: int = MAX_FOUND,
    ) -> Costs:
        """What a tenant's calls of models have cost, most expensive first, and all of them together.

        None sums up those of all tenants.
        """

        def sums() -> Costs:
            with closing(self._database.connect_reader()) as connection:
                return sum_costs(connection, tenant_id, by, since, limit)

        await self._database.write(self._projections.flush)
        return await asyncio.to_thread(sums)  # it may take a second, and other readers must not wait

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
        deleted = 0
        await self._database.write(self._projections.flush)
        for block in await self._database.read(partial(_old_blocks, end=end, written_before=written_before)):
            deleted += await self._database.write(partial(_prune_block, block=block))
        return deleted


class _Append(Job):
    """Events to write, and the future of those that were."""

    def __init__(self, log: EventLog, events: Sequence[Event]) -> None:
        self.future: asyncio.Future[list[Event]] = asyncio.get_running_loop().create_future()
        self._log = log
        self._events = events
        self._written: list[Event] = []

    def apply(self, connection: sqlite3.Connection) -> None:
        self._written = self._log.append_in(connection, self._events)

    def done(self, error: StoreFailed | None) -> None:
        if error is None:
            self._log.committed(self._written)
        if self.future.done():
            return  # its waiter was cancelled
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self._written)


def _newest(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]


def _knows(connection: sqlite3.Connection, event_id: str, newest: int) -> bool:
    return bool(known_ids(connection, [event_id])) or has_own_id(connection, event_id, newest)


def _old_blocks(connection: sqlite3.Connection, end: int, written_before: float) -> list[int]:
    """The blocks, oldest first, that end at or before a `seq` and had their last event before a time."""
    query = "SELECT block, written_at FROM event_blocks WHERE block < ? ORDER BY block"
    old = []
    for block, written_at in connection.execute(query, (block_of(end + 1),)).fetchall():
        if written_at >= written_before:
            break
        old.append(block)
    return old


def _prune_block(connection: sqlite3.Connection, block: int) -> int:
    deleted = delete_block(connection, block)
    delete_ended_tasks(connection, first_of(block + 1))
    return deleted

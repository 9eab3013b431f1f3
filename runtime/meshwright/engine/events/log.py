"""The event log: append-only, numbered by `seq` in the order of commit, searched, replayed and followed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import force_setattr

from meshwright.core.clock import Clock, SystemClock
from meshwright.core.errors import HostError, StoreFailed
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.model_events import ModelCalled
from meshwright.core.payloads import Payload
from meshwright.engine.events import table
from meshwright.engine.events.event_types import (
    EventsPruned,
    LossAccepted,
    LossNoticed,
    StoreEmptied,
    StoreUpgraded,
)
from meshwright.engine.events.filter import EventFilter, TaskFilter
from meshwright.engine.events.projections import (
    FOLDED_AT_ONCE,
    FOLDED_BETWEEN_COMMITS,
    Projection,
    StalledProjection,
    StalledProjections,
    clear,
    fold_next,
)
from meshwright.engine.events.rows import event_row, own_id
from meshwright.engine.events.table import MAX_BYTES_READ, Matches, Written
from meshwright.engine.events.tails import Tails
from meshwright.engine.events.task_lists import (
    TaskOrder,
    dead_letters,
    delete_ended_tasks,
    find_event_tasks,
    list_tasks,
    open_tasks,
    tasks_among,
)
from meshwright.engine.events.tasks import DeadLetterPage, TaskPage, TaskProjection, parse_cursor
from meshwright.engine.events.text_index import clear_texts, index_next
from meshwright.engine.sql.database import Database, Row, Session
from meshwright.engine.sql.folder import Loss

_logger = logging.getLogger("meshwright.events")
ResultT = TypeVar("ResultT")
_PRUNE_PAUSE_SECONDS = 3600.0
_BUSY_SECONDS = 0.02  # between looks whether another process has folded the events
_QUIET_SECONDS = 1.0  # without a new event, until the texts of tasks are indexed
_MAX_QUIET_WAIT_SECONDS = 600.0
_INDEX_SHARE, _INDEX_SHARE_WHEN_QUIET = 0.03, 0.5  # of the time, while there is much to index
_SEARCH_SECONDS = 0.5  # that a search indexes by itself
LOSS_NOTICED = "store.loss_noticed"
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
        self,
        database: Database,
        *,
        projections: Sequence[Projection] = (),
        clock: Clock | None = None,
        keep_days: float | None = None,
    ) -> None:
        self._database = database
        self._projections: list[Projection] = [TaskProjection(), *projections]
        self._stalled = StalledProjections()
        self._folded = 0  # the last seq that is surely in them, but for those that have stalled
        self._folding: asyncio.Task[None] | None = None
        self._indexed = 0  # the last seq whose text a search finds
        self._indexing: asyncio.Task[None] | None = None
        self._keep_seconds = None if keep_days is None else keep_days * 86_400
        self._pruning: asyncio.Task[None] | None = None
        self.before_prune: Callable[[], Awaitable[None]] | None = None
        """Called before old events are deleted by age."""
        self.kept_statuses: Sequence[str] = ()
        """The statuses of ended tasks that stay in the list without their events: retention prunes them."""
        self.max_late_events = 0
        """How many numbers late the first event of a task may be: a broker does not keep their order."""
        self._tails = Tails(self._search)
        self._now = (clock or SystemClock()).now

    @property
    def projections(self) -> Sequence[Projection]:
        """The projections that it makes."""
        return self._projections

    def add(self, *projections: Projection) -> None:
        """Make these projections too. Call it before the start."""
        self._projections += projections

    async def start(self) -> None:
        """Find the end of the log. The database is open already, and nothing has been inserted."""
        self._tails.announced = await self._database.write(self._resume)  # nothing is inserted before
        await self._fold()
        if self._keep_seconds is not None:
            self._pruning = asyncio.create_task(
                self._prune_hourly(self._keep_seconds), name="events: pruning"
            )
        self._database.preloaded += [fold_next, self._projections]

    def _resume(self, session: Session) -> int:
        if loss := self._database.accepted_loss:
            table.skip_to(session, loss.marked_seq, self._now().timestamp())  # no lost number is given again
            self.insert(session, [self._loss_accepted(loss)])
        if upgrades := self._database.upgrades:
            self.insert(session, [self._store_event(StoreUpgraded(upgrades=[*map(str, upgrades)]))])
        table.fill_blocks(session, self._now().timestamp())
        return table.newest(session)

    def _loss_accepted(self, loss: Loss) -> Event:
        payload = LossAccepted(
            last_seq=loss.seq,
            lost_until_seq=loss.marked_seq,
            lost_events=max(0, loss.marked_seq - loss.seq),
            lost_tasks=max(0, loss.marked_tasks - loss.tasks),
            replaced=loss.replaced,
        )
        return self._store_event(payload)

    async def note_loss(self, last_seq: int, lost_until_seq: int) -> None:
        """Record that the events after one `seq` up to another are gone; no `seq` is given a second time."""
        await self._database.write(table.skip_to, lost_until_seq, self._now().timestamp())
        noticed = LossNoticed(last_seq=last_seq, lost_until_seq=lost_until_seq)
        await self.append([self._store_event(noticed)])

    async def note_emptied(self) -> None:
        """Record that the state store beside the log has lost what it had, if the log has any task."""
        open_tasks = await self.view(_open_tasks)
        if open_tasks is not None:
            await self.append([self._store_event(StoreEmptied(open_tasks=open_tasks))])

    def _store_event(self, payload: Payload) -> Event:
        kind, topic = payload.event_type, payload.event_topic
        return Event(id=new_id(), event_type=kind, topic=topic, time=self._now(), payload=payload)

    def close(self) -> None:
        """End all tails, once each has given out what it holds. Call it before the database is closed."""
        self._tails.close()
        for task in (self._folding, self._indexing, self._pruning):
            if task is not None:
                task.cancel()

    @property
    def readers(self) -> int:
        """How many tails are open."""
        return len(self._tails)

    # Writing

    def rows(self, events: Sequence[Event], *, repeats: bool = False) -> tuple[list[Row], float]:
        """Events as arguments for `table.insert`, whose result goes to `committed`.

        An event whose id is known is dropped. An id that begins with the actor the event is of is not looked
        up, since an actor counts what it sends; with `repeats` every id is.
        """
        rows = [event_row(event, None if repeats else own_id(event)) for event in events]
        return rows, self._now().timestamp()

    async def write(
        self, function: Callable[..., tuple[ResultT, Sequence[Event]]], *args: Any, **kwargs: Any
    ) -> tuple[ResultT, list[Event]]:
        """Call `function(session, ...)`, which writes rows, and log the events that it returns too.

        That is one transaction, in which no other process logs events. Returns the result, and the events
        with their `seq` once all is durable. Raises StoreFailed, and what the function raises.
        """
        now = self._now().timestamp()
        result, events, numbers = await self._database.write(_write_with, function, args, kwargs, now)
        return result, self.tell(events, numbers)

    def insert(self, session: Session, events: Sequence[Event]) -> Written:
        """Number and write events within a transaction of the writer's thread."""
        return table.insert(session, *self.rows(events))

    def number(self, events: Sequence[Event], numbers: Written) -> list[Event]:
        """Those of some inserted events that were new, now durable, with their `seq`: the same objects."""
        first, dropped = numbers
        if dropped:
            events = [event for index, event in enumerate(events) if index not in dropped]
        for seq, event in enumerate(events, first):
            force_setattr(event, "seq", seq)  # frozen to all others: the number is the log's to give
        self._database.count_accepted([event.event_type for event in events].count("task.accepted"))
        return list(events)

    def committed(self, events: Sequence[Event]) -> None:
        """Show numbered events to the tails. Call it on the event loop."""
        self._tails.announce(events)
        is_due = self._tails.announced - self._folded >= FOLDED_AT_ONCE and self._database.exclusive
        if is_due and (self._folding is None or self._folding.done()):
            self._folding = asyncio.create_task(self._fold_behind(), name="events: projections")

    def tell(self, events: Sequence[Event], numbers: Written) -> list[Event]:
        """Number inserted events and show them to the tails."""
        new = self.number(events, numbers)
        self.committed(new)
        return new

    def reach(self, seq: int) -> None:
        """Have the tails read the table up to an event of another process. Call it on the event loop."""
        self._tails.reach(seq)

    async def catch_up(self) -> None:
        """Have the tails read what other processes have written, in a database that several write."""
        self.reach(await self._database.read(table.newest))

    async def append(self, events: Sequence[Event]) -> list[Event]:
        """Write events that did not come from a turn; those whose id is known are dropped.

        Returns those that were written, durable, with their `seq`. Raises StoreFailed.
        """
        future: asyncio.Future[list[Event]] = asyncio.get_running_loop().create_future()

        def done(numbers: Written, error: StoreFailed | None) -> None:
            new = self.tell(events, numbers) if error is None else []
            if future.done():
                return  # its waiter was cancelled
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(new)

        self._database.submit(table.insert, self.rows(events, repeats=True), done)
        return await future

    # Reading

    async def query(self, filter: EventFilter) -> list[Event]:
        """Up to `limit` events that fit, in the filter's order, however large. Payloads are plain data."""
        page = await self.page(filter)
        events = page.events
        while page.next_seq is not None and len(events) < filter.limit:
            bound = "before_seq" if filter.order == "desc" else "after_seq"
            rest = {bound: page.next_seq, "limit": filter.limit - len(events)}
            page = await self.page(filter.model_copy(update=rest))
            events += page.events
        return events

    async def page(self, filter: EventFilter) -> Page:
        """The first events that fit, in the filter's order: up to `limit`, and to `MAX_BYTES_READ`."""
        first, last = filter.first(), filter.last(self._tails.announced)
        if filter.is_of_calls:
            await self.flush()  # a projection says which they are
        await self.index_for(filter.of_task)
        task_ids: Sequence[str] | None = None
        if filter.of_task is not None and filter.tenant_id is not None:
            tasks = await self.view_apart(find_event_tasks, filter.tenant_id, filter.of_task)
            if tasks is None:
                return Page([], None)
            first, task_ids = max(first, tasks.first_seq - self.max_late_events), tasks.task_ids
        if filter.task_id is not None and filter.tenant_id is not None:
            first_of_task = await self._database.read(table.first_of_task, filter.task_id, filter.tenant_id)
            first = max(first, (first_of_task or 0) - self.max_late_events)
        events: list[Event] = []
        size = 0
        while first <= last and len(events) < filter.limit and size < MAX_BYTES_READ:
            limit = min(filter.limit - len(events), _MAX_FOUND)
            matches = await self._search(filter, first, last, limit, MAX_BYTES_READ - size, task_ids)
            events += matches.events
            size += matches.size
            if filter.order == "desc":
                last = matches.reached - 1
            else:
                first = matches.reached + 1
        is_cut = len(events) == filter.limit or size >= MAX_BYTES_READ
        return Page(events, events[-1].seq if is_cut else None)

    async def task_filter(self, task_id: str, tenant_id: str, **fields: Any) -> EventFilter:
        """Returns a filter of the events of a task that has a record; `fields` are others of the filter.

        It begins at the first of them, so that no search walks the log before the task.
        """
        before = await self._database.read(table.before_task, task_id, tenant_id, self.max_late_events)
        after_seq = max(before, fields.pop("after_seq", None) or 0)
        return EventFilter(task_id=task_id, tenant_id=tenant_id, after_seq=after_seq, **fields)

    async def query_task(self, task_id: str, tenant_id: str, **fields: Any) -> list[Event]:
        """Up to `limit` events of a task that has a record; `fields` are others of the filter."""
        return await self.query(await self.task_filter(task_id, tenant_id, **fields))

    async def newest_of_task(
        self, task_id: str, tenant_id: str, event_types: Sequence[str]
    ) -> dict[str, Event]:
        """The newest event of each type, of a task that has a record."""
        return await self._database.read(
            table.newest_of_task, task_id, tenant_id, event_types, self.max_late_events
        )

    async def replay(self, filter: EventFilter) -> AsyncGenerator[Event]:
        """All events that fit, as far as the log goes now, however many: of an aggregate its story."""
        filter = filter.model_copy(update={"order": "asc"})
        first, last = filter.first(), filter.last(self._tails.announced)
        while first <= last:
            matches = await self._search(filter, first, last)
            for event in matches.events:
                yield event
            first = matches.reached + 1

    def tail(self, filter: EventFilter) -> AsyncGenerator[Event]:
        """The events that fit after `after_seq` (without it: from now on), and then those to come, for ever.

        None is skipped and none repeated: with the last `seq` that was seen as `after_seq` a reader goes
        on where it stopped. A slow reader slows no other; close the generator to end it.
        """
        return self._one_by_one(self.follow(filter))

    def follow(self, filter: EventFilter, *, live: bool = False) -> AsyncGenerator[list[Event]]:
        """As `tail`, but all events that are ready at a time.

        A `live` reader also gets the unlogged events that `show` is given: without `seq`, each in its place,
        and only while it keeps up.
        """
        return self._follow(filter, self._tails.announced, live)

    def show(self, event: Event) -> None:
        """Give an event that is not logged to the live readers. Call it on the event loop."""
        self._tails.show(event)

    async def _one_by_one(self, batches: AsyncGenerator[list[Event]]) -> AsyncGenerator[Event]:
        async with aclosing(batches):
            async for batch in batches:
                for event in batch:
                    yield event

    async def _follow(self, filter: EventFilter, now: int, live: bool) -> AsyncGenerator[list[Event]]:
        position = now if filter.after_seq is None else filter.after_seq
        if position > self._tails.announced:  # ahead of us, or of a log that has started again
            position = min(position, await self._database.read(table.newest))
        # Projections may be behind the log: they judge what was read.
        read = filter.model_copy(
            update={"of_task": None, "deployment": None, "failed_at": None, **filter.exact()}
        )
        async with aclosing(self._tails.follow(read, position, live=live)) as batches:
            async for batch in batches:
                if matches := await self._filter_tasks(batch, filter):
                    yield matches

    async def _filter_tasks(self, batch: list[Event], filter: EventFilter) -> list[Event]:
        """Those of some events whose tasks, or calls of models, are wanted."""
        if filter.is_of_calls:
            batch = [event for event in batch if _is_such_call(event, filter)]
        if filter.of_task is None or filter.tenant_id is None:
            return batch
        await self.index_for(filter.of_task)
        ids = [*{event.task_id for event in batch if event.task_id is not None}]
        task_ids = await self.view(tasks_among, filter.tenant_id, filter.of_task, ids)
        return [event for event in batch if event.task_id in task_ids]

    async def _search(
        self,
        filter: EventFilter,
        first: int,
        last: int,
        limit: int = _MAX_FOUND,
        max_bytes: int = MAX_BYTES_READ,
        task_ids: Sequence[str] | None = None,
    ) -> Matches:
        return await self._database.read(table.search, filter, first, last, limit, max_bytes, task_ids)

    async def knows(self, event_id: str, aggregate_id: str | None = None) -> bool:
        """Whether an event of that id is in the log and durable.

        With its `aggregate_id` no search is made for an id that does not begin with it.
        """
        return await self._database.read(table.knows, event_id, aggregate_id)

    async def last_seq(self) -> int:
        """The `seq` of the newest durable event, 0 if there is none."""
        return self._tails.announced

    async def stored_bytes(self) -> dict[str, int]:
        """How many bytes the events of each tenant take."""
        return await self._database.read(table.stored_bytes)

    async def tasks(
        self,
        *,
        tenant_id: str,
        limit: int = 50,
        cursor: str | None = None,
        order: TaskOrder = "created",
        **fields: Any,
    ) -> TaskPage:
        """A page of a tenant's tasks, newest first, at most 1,000. Takes the fields of `TaskFilter`.

        Raises InvalidInput for a wrong cursor.
        """
        chosen = TaskFilter(**{name: value for name, value in fields.items() if value is not None})
        await self.index_for(chosen)
        view = self.view_apart if chosen.reads_many else self.view
        return await view(list_tasks, tenant_id, chosen, limit, parse_cursor(cursor), order)

    async def dead_letters(self, *, tenant_id: str, limit: int = 50, **fields: Any) -> DeadLetterPage:
        """A tenant's tasks that failed or timed out, by agent and error. Takes the fields of `TaskFilter`."""
        chosen = TaskFilter(**fields)
        await self.index_for(chosen)
        return await self.view_apart(dead_letters, tenant_id, chosen, limit)

    async def open_tasks(self) -> list[tuple[str, str, str | None]]:
        """(tenant_id, task_id, thread_id) of every task that has no outcome."""
        return await self.view(open_tasks)

    async def view(self, function: Callable[..., ResultT], *args: Any, **kwargs: Any) -> ResultT:
        """Call `function(session, ...)` on projections that have every durable event, unless they stalled."""
        await self.flush()
        return await self._database.read(function, *args, **kwargs)

    async def view_apart(self, function: Callable[..., ResultT], *args: Any, **kwargs: Any) -> ResultT:
        """The same for a function that may take a second: no other reader waits for it."""
        await self.flush()  # deleted events could not be folded any more
        return await self._database.read_apart(function, *args, **kwargs)

    async def flush(self) -> None:
        """Fold every durable event into the projections."""
        if not self._database.exclusive:  # others may have written, and commits wait meanwhile
            await self._fold(FOLDED_BETWEEN_COMMITS)
        elif self._folded < self._tails.announced or self._stalled.is_due:
            await self._fold()

    def stalled(self) -> list[StalledProjection]:
        """The projections that have raised: what they list ends there. They are tried again by themselves."""
        return self._stalled.shown()

    async def _fold(self, at_once: int = FOLDED_AT_ONCE) -> None:
        end, is_full = self._tails.announced, True  # before: what is folded beside it does no harm
        while is_full:
            ready = self._stalled.ready(self._projections)
            folded = await self._database.write(fold_next, ready, at_once)
            is_full = folded.is_full
            if folded.is_busy:  # another process folds, so its rows are waited for
                await asyncio.sleep(_BUSY_SECONDS)
                continue
            if failures := self._stalled.note(ready, folded, self._now()):
                for failure in await self.append(failures):  # the log drops those that it has
                    _logger.warning("Projection %(name)s stands at event %(seq)s: %(error)s", failure.fields)
        self._folded = max(self._folded, end)
        if self._indexed < self._folded and (self._indexing is None or self._indexing.done()):
            self._indexing = asyncio.create_task(self._index_behind(), name="events: search")

    async def _fold_behind(self) -> None:
        with suppress(StoreFailed):  # the writer that waits for a commit gets the error
            await self._fold(FOLDED_BETWEEN_COMMITS)

    async def index_for(self, filter: TaskFilter | None) -> None:
        """Have a search by text find the newest tasks too, as far as half a second is enough for that."""
        if filter is None or filter.text is None:
            return
        await self.flush()
        ends_at = time.monotonic() + _SEARCH_SECONDS
        while await self._index_next() and time.monotonic() < ends_at:  # noqa: ASYNC110 others commit
            await asyncio.sleep(0)

    async def _index_next(self) -> bool:
        """Index a part of the texts. Returns whether there are more that the lists have."""
        position, has_more = await self._database.write(index_next)
        self._indexed = max(self._indexed, position)
        return has_more

    async def _index_behind(self) -> None:
        """Index once the mesh is quiet; one that never is spends three hundredths of its time on it."""
        with suppress(StoreFailed):  # the writer that waits for a commit gets the error
            waits_until, newest = time.monotonic() + _MAX_QUIET_WAIT_SECONDS, -1
            while newest != self._tails.announced and time.monotonic() < waits_until:
                newest = self._tails.announced
                await asyncio.sleep(_QUIET_SECONDS)
            has_more = True
            while has_more:
                newest, began = self._tails.announced, time.monotonic()
                has_more = await self._index_next()
                is_quiet = self._tails.announced == newest
                share = _INDEX_SHARE_WHEN_QUIET if is_quiet else _INDEX_SHARE
                await asyncio.sleep((time.monotonic() - began) / share)

    # Upkeep

    async def rebuild(self) -> None:
        """Rebuild the projections from the log. Lists are incomplete meanwhile; events go on coming in."""
        await self._database.write(clear, self._projections)
        await self._database.write(clear_texts)
        self._indexed = 0
        self._stalled = StalledProjections()  # all are tried at once
        await self._fold()

    async def prune(self, *, keep_seconds: float | None = None, max_events: int | None = None) -> int:
        """Delete the oldest events, block by block between other writes; returns how many.

        An event that was written within `keep_seconds`, or is among the newest `max_events`, stays; up to
        2,047 more may. Ended tasks leave the list with their last event, but for the `kept_statuses`.
        """
        if keep_seconds is None and max_events is None:
            return 0
        written_before = float("inf") if keep_seconds is None else self._now().timestamp() - keep_seconds
        end = self._tails.announced - max(max_events or 0, 1)  # the newest says where the log has come to
        await self.flush()
        deleted = 0
        for block in await self._database.read(table.old_blocks, end, written_before):
            pruned = self._store_event(EventsPruned(through=table.block_end(block) - 1))
            rows = self.rows([pruned])
            count, numbers = await self._database.write(_prune_block, block, self.kept_statuses, *rows)
            self.tell([pruned], numbers)
            deleted += count
        return deleted

    async def _prune_hourly(self, keep_seconds: float) -> None:
        while True:
            with suppress(HostError):  # the writer that waits for a commit gets the error
                if self.before_prune is not None:
                    await self.before_prune()
                await self.prune(keep_seconds=keep_seconds)
            await asyncio.sleep(_PRUNE_PAUSE_SECONDS)


def _is_such_call(event: Event, filter: EventFilter) -> bool:
    """Whether a call of a model has the deployments of a filter, as `EventFilter.calls_condition` has it."""
    call = ModelCalled.from_payload(event.payload)
    if call.cache_hit:
        return False
    name = call.deployment or call.model or (call.group if call.outcome == "failed" else "")
    failed = call.failed_at or (() if call.outcome in ("ok", "") else (name,))
    is_at = filter.deployment is None or filter.deployment in (name, *call.failed_at)
    return is_at and (filter.failed_at is None or filter.failed_at in failed)


def _prune_block(
    session: Session, block: int, kept_statuses: Sequence[str], rows: Sequence[Row], now: float
) -> tuple[int, Written]:
    deleted = table.delete_block(session, block)
    delete_ended_tasks(session, table.block_end(block), kept_statuses)
    return deleted, table.insert(session, rows, now)


def _write_with(
    session: Session,
    function: Callable[..., tuple[Any, Sequence[Event]]],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    now: float,
) -> tuple[Any, list[Event], Written]:
    table.lock(session)
    result, new_events = function(session, *args, **kwargs)
    events = [event.sealed(mend=True) for event in new_events]
    return (result, events, table.insert(session, [event_row(event, own_id(event)) for event in events], now))


def _open_tasks(session: Session) -> int | None:
    """How many tasks of the log are open; None where it has no task."""
    [(tasks, ended)] = session.execute("SELECT count(*), count(completed_at) FROM tasks").fetchall()
    return tasks - ended if tasks else None

"""Retention: tasks that ended long enough ago leave the lists, and their contents go; later their records.

The event log is apart: `keep_events_days` is its age, and the audit trail in it stays; so do the costs of
calls. A task is pruned after the one that has delegated it, and not while one below it, or one of its thread,
is open.

The record of a pruned task says for some more days when it ran, for whom and at what cost, and its
idempotency key is not used for another task. With it its rows of calls become sums. The table `pruned_tasks`
has the tasks whose records are still there; none of a store that does not delete actors.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple, TypeVar

from pydantic import BaseModel

from meshwright import Event
from meshwright.agents.run.erasure import Memory, forget_tasks, load_memories
from meshwright.component import ActorRef, Audit, Caller, Mesh, TaskKey
from meshwright.core.topics import MESH
from meshwright.engine.events.tasks import PRUNED, RECORDS_PRUNED
from meshwright.engine.work.conversation import ConversationState
from meshwright.engine.work.record import TaskRecord
from meshwright.kit import (
    Conflict,
    Database,
    Duty,
    EventLog,
    InvalidInput,
    Role,
    Rule,
    Runtime,
    Session,
    marks,
    operation,
)
from meshwright.parts.retention.event_types import TasksPruned
from meshwright.parts.retention.settings import RetentionSettings

_PAUSE_SECONDS = 3600.0
_MAX_TASKS_PER_CALL, _MAX_RECORDS_PER_CALL = 2_000, 10_000  # for a caller who waits: some seconds
_PAGE_SIZE = 2_000  # rows that are read in one go
_OPEN = "SELECT tenant_id, task_id, parent_task_id, thread_id FROM tasks WHERE completed_at IS NULL"
_PARENT = "SELECT parent_task_id FROM tasks WHERE tenant_id = ? AND task_id = ?"


class Pruned(BaseModel):
    """How many tasks were pruned, by status, or would be (`dry_run`); `has_more` where others are left.

    `records`: tasks pruned earlier whose last records were deleted now. Only their cost totals remain.
    """

    dry_run: bool
    tasks: dict[str, int]
    records: int = 0
    has_more: bool = False


class _EndedTask(NamedTuple):
    seq: int
    key: TaskKey
    status: str


class Retention:
    """Prunes the tasks of a mesh, hourly, and on request."""

    def __init__(self, mesh: Mesh, ages: RetentionSettings) -> None:
        self._mesh, self._ages = mesh, ages
        self._records = RecordPruner(mesh, ages.records_days)
        mesh.log.kept_statuses = [status for status, days in ages.days.items() if days is not None]
        self._pruning = Duty(mesh.runtime.clock, _PAUSE_SECONDS, self._prune_all)
        self._lock = asyncio.Lock()

    @property
    def is_on(self) -> bool:
        """Whether the settings name an age."""
        return any(days is not None for days in self._ages.days.values())

    async def start(self) -> None:
        """Begin to prune. Idempotent."""
        if self.is_on:
            await self._pruning.start()

    async def stop(self) -> None:
        """Prune no more."""
        await self._pruning.stop()

    @operation(
        Rule("prunes tasks", (Role.ADMIN,), all_tenants=True),
        "POST /prune?dry_run",
        "Prune old tasks",
        errors={403: "The caller is no administrator.", 422: "The settings say no age of tasks."},
    )
    async def prune(self, caller: Caller, *, dry_run: bool = False) -> Pruned:
        """Have tasks that ended long enough ago leave the lists, and erase their contents, or count them.

        `[retention]` says how long ago. `has_more` asks for another request.
        """
        if not self.is_on:
            remedy = "Set succeeded_days, failed_days, ... in [retention] of mesh.toml"
            raise InvalidInput("The settings say no age of tasks", remedy=remedy, field="retention")
        if dry_run:
            counts = Counter([task.status async for _, page in self._pages(0) for task in page])
            return Pruned(dry_run=True, tasks=dict(counts), records=await self._records.count())
        # Some thousands at most, beside other work.
        async with self._mesh.get(Audit).change(caller, "tasks.pruned", "tasks"):
            pruned, _ = await self._prune(_MAX_TASKS_PER_CALL, 0)
            async with self._lock:
                records, has_more = await self._records.prune(_MAX_RECORDS_PER_CALL)
            has_more = has_more or pruned.has_more
            return pruned.model_copy(update={"records": records, "has_more": has_more})

    async def _prune(self, limit: int, after: int) -> tuple[Pruned, int | None]:
        """Prune tasks behind a place of the list; returns the place that it reached too, None at the end."""
        counts = Counter[str]()
        async with self._lock:
            async for reached, page in self._pages(after):
                remaining = await side_by_side(page, self._prune_some)
                await delete_empty(self._mesh.runtime, self._mesh.log, set[ActorRef]().union(*remaining))
                counts.update(task.status for task in page)
                if counts.total() >= limit:
                    has_more = reached is not None
                    return Pruned(dry_run=False, tasks=dict(counts), has_more=has_more), reached
        return Pruned(dry_run=False, tasks=dict(counts)), None

    async def _prune_all(self) -> None:
        """Prune some at a time, since tasks begin meanwhile; a part of the list that stays is read once."""
        reached: int | None = 0
        while reached is not None:
            _, reached = await self._prune(_PAGE_SIZE, reached)
        has_more = True
        while has_more:
            async with self._lock:
                _, has_more = await self._records.prune(_PAGE_SIZE)

    async def _prune_some(self, some: Sequence[_EndedTask]) -> set[ActorRef]:
        """Erase the contents of tasks, and have them leave the lists; durable when this returns.

        Returns the threads that are left.
        """
        keys = [task.key for task in some]
        remaining = await erase_tasks(self._mesh.runtime, self._mesh.database, keys)
        await self._records.note(keys, pruned_events(self._mesh, PRUNED, keys))
        return remaining

    async def _pages(self, reached: int) -> AsyncGenerator[tuple[int | None, list[_EndedTask]]]:
        """The tasks behind a place that are old enough, those that have delegated others before these.

        They come page by page, each with the place behind it, None for the last.
        """
        now = self._mesh.runtime.clock.now()
        before = {
            status: (now - timedelta(days=days)).timestamp()
            for status, days in self._ages.days.items()
            if days is not None
        }
        if not before:
            return
        end = await self._mesh.log.view_apart(last_ended, max(before.values()))
        if end is None:
            return
        needed = await self._mesh.log.view_apart(_needed)
        chosen: set[TaskKey] = set()
        while True:
            last, page = await self._mesh.database.read_apart(_page, reached, end, before, needed, chosen)
            if page:
                yield last, page
            if last is None:
                return
            reached = last


class _KeptByOpenTasks(NamedTuple):
    """The tasks and threads that open tasks need."""

    tasks: set[TaskKey]
    threads: set[tuple[str, str]]


def _needed(session: Session) -> _KeptByOpenTasks:
    tasks: set[TaskKey] = set()
    threads: set[tuple[str, str]] = set()
    for tenant_id, task_id, parent_id, thread_id in session.execute(_OPEN).fetchall():
        tasks.add(TaskKey(tenant_id, task_id))
        threads.add((tenant_id, thread_id))
        while parent_id is not None and (key := TaskKey(tenant_id, parent_id)) not in tasks:
            tasks.add(key)
            row = session.execute(_PARENT, key).fetchone()
            parent_id = row[0] if row else None
    return _KeptByOpenTasks(tasks, threads)


def last_ended(session: Session, before: float) -> int | None:
    """The `seq` of the last task that ended before a time, so that no look reads those that are younger."""
    tasks = session.by_index("tasks", "tasks_by_end")
    query = f"SELECT max(seq + 0) FROM {tasks} WHERE completed_at <= ?"  # noqa: S608 + 0: not by the index of seq
    return session.execute(query, (before,)).fetchone()[0]


def _page(
    session: Session,
    after: int,
    end: int,
    before: dict[str, float],
    needed: _KeptByOpenTasks,
    chosen: set[TaskKey],
) -> tuple[int | None, list[_EndedTask]]:
    """The next tasks up to `end` that may go, now `chosen`, and the `seq` reached; None at the end."""
    old = " OR ".join(["(status = ? AND completed_at <= ?)"] * len(before))
    query = (
        "SELECT seq, tenant_id, task_id, status, parent_task_id, thread_id FROM tasks "  # noqa: S608 code
        f"WHERE seq > ? AND seq <= ? AND ({old}) ORDER BY seq LIMIT ?"
    )
    values = [value for pair in before.items() for value in pair]
    rows = session.execute(query, (after, end, *values, _PAGE_SIZE)).fetchall()
    tasks: list[_EndedTask] = []
    for seq, tenant_id, task_id, status, parent_id, thread_id in rows:
        key = TaskKey(tenant_id, task_id)
        if key in needed.tasks or (tenant_id, thread_id) in needed.threads:
            continue
        parent = None if parent_id is None else TaskKey(tenant_id, parent_id)
        if parent is None or parent in chosen or not session.execute(_PARENT, parent).fetchone():
            chosen.add(key)
            tasks.append(_EndedTask(seq, key, status))
    return (rows[-1][0] if len(rows) == _PAGE_SIZE else None), tasks


# Contents and records of pruned tasks


async def erase_tasks(runtime: Runtime, database: Database, keys: Sequence[TaskKey]) -> set[ActorRef]:
    """Erase the contents of tasks that have ended, but for their events. Safe to repeat.

    Tasks that are gone, or have begun once more, stay as they are. Returns the threads and conversations that
    are still there, since other tasks have them as well.
    """
    erased = await asyncio.gather(*(_erase(runtime, key) for key in keys))
    records = [record for record in erased if record is not None]

    async def only_theirs(
        memories: Mapping[ActorRef, Memory], tasks: Mapping[ActorRef, set[str]]
    ) -> set[ActorRef]:
        # After their states: a task that is listed since then keeps its thread.
        shared = await database.read(_shared_threads, _tasks_of_threads(records))
        return {
            actor
            for actor, state in memories.items()
            if actor.id not in shared and _remembered(state) <= tasks[actor]
        }

    return await forget_tasks(runtime, records, only_theirs)


async def delete_empty(runtime: Runtime, log: EventLog, actors: Collection[ActorRef]) -> None:
    """Delete those of some threads and conversations that have nothing in them, and no listed task."""
    if not actors:
        return
    counts = {(tenant_id, name): 0 for tenant_id, _, name in (actor.id.partition(":") for actor in actors)}
    shared = await log.view(_shared_threads, counts)
    unshared = [actor for actor in actors if actor.id not in shared]
    memories = await load_memories(runtime, unshared)
    await runtime.delete_actors([actor for actor, state in memories.items() if not _remembered(state)])


async def _erase(runtime: Runtime, key: TaskKey) -> TaskRecord | None:
    """Erase request and result of a task; returns its record as it was, None where it stays as it is."""
    record = await runtime.read(key.ref)
    if not isinstance(record, TaskRecord) or record.task is None or record.is_open:
        return None
    with suppress(Conflict):
        await runtime.call(key.ref, "erase")
        return record
    return None


def _remembered(state: Memory) -> set[str]:
    """The tasks of which a thread or a conversation knows something."""
    if isinstance(state, ConversationState):
        first = [state.first] if state.first is not None else []
        return {message.task_id for message in (*first, *state.recent)}
    return {entry.task_id for entry in state.inbox} | {outcome.task_id for outcome in state.ends}


def _tasks_of_threads(records: Iterable[TaskRecord]) -> Counter[tuple[str, str]]:
    """How many of some tasks each thread has, by tenant and thread."""
    return Counter((record.task.tenant_id, record.task.thread_id) for record in records if record.task)


def _shared_threads(session: Session, counts: Mapping[tuple[str, str], int]) -> set[str]:
    """The threads that have more listed tasks than these, each with its tenant as in the ids of actors."""
    listed: Counter[tuple[str, str]] = Counter()
    if not counts:
        return set()
    names = [session.bindable(thread_id) for thread_id in {thread_id for _, thread_id in counts}]
    of_threads = f"IN ({marks(len(names))}) GROUP BY"
    for query in (
        f"SELECT tenant_id, thread_id, count(*) FROM tasks WHERE thread_id <> task_id "  # noqa: S608 code
        f"AND thread_id {of_threads} tenant_id, thread_id",
        f"SELECT tenant_id, task_id, count(*) FROM tasks WHERE task_id {of_threads} tenant_id, task_id",  # noqa: S608
    ):
        for tenant_id, thread_id, count in session.execute(query, names).fetchall():
            listed[tenant_id, thread_id] += count
    return {
        f"{tenant}:{thread}" for (tenant, thread), count in counts.items() if listed[tenant, thread] > count
    }


_AT_ONCE = 50  # whose commits are grouped: 10 ms of the event loop
_SIDE_BY_SIDE = 8
_ItemT = TypeVar("_ItemT")
_ResultT = TypeVar("_ResultT")
_DELETE = "DELETE FROM pruned_tasks WHERE pruned_at = ? AND tenant_id = ? AND task_id = ?"


class PrunedTask(NamedTuple):
    """A task that has left the lists, at a time in unix seconds. They are ordered."""

    pruned_at: float
    tenant_id: str
    task_id: str

    @property
    def key(self) -> TaskKey:
        """The task."""
        return TaskKey(self.tenant_id, self.task_id)


class RecordPruner:
    """Deletes the records of tasks that were pruned long enough ago."""

    def __init__(self, mesh: Mesh, keep_days: float) -> None:
        self._mesh = mesh
        self._keep = timedelta(days=keep_days)

    async def note(self, pruned: Sequence[TaskKey], events: Sequence[Event]) -> None:
        """Note tasks that leave the lists with these events; durable when this returns."""
        now = self._mesh.runtime.clock.now().timestamp()
        rows = [PrunedTask(now, *key) for key in pruned] if self._mesh.runtime.deletes_actors else []
        await self._mesh.write(_note, rows, events)

    async def count(self) -> int:
        """How many tasks were pruned long enough ago."""
        return await self._mesh.database.read_apart(_count, self._due_before)

    async def prune(self, limit: int) -> tuple[int, bool]:
        """Delete the records of so many tasks at most, some at a time beside other work.

        Returns of how many, and whether others are left. A task stays while one that it delegated is listed.
        """
        await self._mesh.log.flush()
        deleted, reached = 0, PrunedTask(0.0, "", "")
        while due := await self._mesh.database.read(_due, reached, self._due_before):
            if deleted >= limit:
                return deleted, True
            reached = due[-1]
            deleted += sum(await side_by_side(due, self._delete))
        return deleted, False

    @property
    def _due_before(self) -> float:
        return (self._mesh.runtime.clock.now() - self._keep).timestamp()

    async def _delete(self, due: Sequence[PrunedTask]) -> int:
        above = await self._mesh.database.read(_above_listed, [task.task_id for task in due])
        going = [task for task in due if task.key not in above]
        deleted = await self._mesh.runtime.delete_actors([task.key.ref for task in going])
        deleted_tasks = [task for task in going if task.key.ref in deleted or await self._is_gone(task.key)]
        if deleted_tasks:
            events = pruned_events(self._mesh, RECORDS_PRUNED, [task.key for task in deleted_tasks])
            await self._mesh.write(_forget, deleted_tasks, events)
        return len(deleted_tasks)

    async def _is_gone(self, key: TaskKey) -> bool:
        return await self._mesh.runtime.read(key.ref) is None


async def side_by_side(
    items: Sequence[_ItemT], work: Callable[[Sequence[_ItemT]], Awaitable[_ResultT]]
) -> list[_ResultT]:
    """Do work with some items at a time, beside that with others, since most of it is to wait for commits."""
    parts = iter([items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE)])

    async def worker() -> list[_ResultT]:
        return [await work(part) for part in parts]

    workers = [worker() for _ in range(_SIDE_BY_SIDE)]
    return [result for results in await asyncio.gather(*workers) for result in results]


def pruned_events(mesh: Mesh, event_type: str, tasks: Sequence[TaskKey]) -> list[Event]:
    """The events that tell of pruned tasks, one for each tenant."""
    tenants: dict[str, list[str]] = {}
    for tenant_id, task_id in tasks:
        tenants.setdefault(tenant_id, []).append(task_id)
    return [
        mesh.event(event_type, TasksPruned(count=len(ids), tasks=ids), topic=MESH, tenant_id=tenant_id)
        for tenant_id, ids in tenants.items()
    ]


def _note(
    session: Session, pruned: Sequence[PrunedTask], events: Sequence[Event]
) -> tuple[None, Sequence[Event]]:
    session.insert("pruned_tasks (pruned_at, tenant_id, task_id)", pruned, then="ON CONFLICT DO NOTHING")
    return None, events


def _forget(
    session: Session, deleted_tasks: Sequence[PrunedTask], events: Sequence[Event]
) -> tuple[None, Sequence[Event]]:
    for task in deleted_tasks:
        session.execute(_DELETE, task)
    return None, events


def _count(session: Session, before: float) -> int:
    query = "SELECT count(*) FROM pruned_tasks WHERE pruned_at <= ?"
    return session.execute(query, (before,)).fetchall()[0][0]


def _due(session: Session, after: PrunedTask, before: float) -> list[PrunedTask]:
    query = (
        "SELECT pruned_at, tenant_id, task_id FROM pruned_tasks WHERE pruned_at >= ? AND pruned_at <= ? "
        "AND (pruned_at, tenant_id, task_id) > (?, ?, ?) ORDER BY pruned_at, tenant_id, task_id LIMIT ?"
    )
    values = (after.pruned_at, before, *after, _PAGE_SIZE)
    return [PrunedTask(*row) for row in session.execute(query, values).fetchall()]


def _above_listed(session: Session, task_ids: Sequence[str]) -> set[TaskKey]:
    """Those of some tasks that have delegated one which is listed."""
    query = "SELECT DISTINCT tenant_id, parent_task_id FROM tasks WHERE parent_task_id"
    return {TaskKey(*row) for row in session.select_in(query, task_ids)}

"""Deletes what is left of pruned tasks: their contents at once, after some more days their records.

Until then the record of a task says when it ran, for whom and at what cost, and its idempotency key is not
used for another task. With it its rows of calls become sums. The table `pruned_tasks` has the tasks whose
records are still there; none of a store that does not delete actors.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple, TypeVar

from meshwright.core.errors import Conflict
from meshwright.core.messages import Event
from meshwright.core.topics import MESH
from meshwright.events.log import EventLog
from meshwright.events.tasks import RECORDS_PRUNED
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.mesh import Mesh
from meshwright.run.erasure import Memory, forget_tasks, memories_of
from meshwright.services.retention.event_types import TasksPruned
from meshwright.sql.database import Database, Session, marks
from meshwright.work.conversation import ConversationState
from meshwright.work.protocol import TaskKey
from meshwright.work.record import TaskRecord


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
    memories = await memories_of(runtime, unshared)
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
        return {message.task_id for message in state.recent}
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


_PAGE_SIZE = 2_000  # tasks that are read in one go
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

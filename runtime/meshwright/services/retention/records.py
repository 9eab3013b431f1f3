"""The records of pruned tasks go after some more days; then nothing is left of them but sums of costs.

Until then the record of a task says when it ran, for whom and at what cost, and its idempotency key is not
used for another task. With it its rows of calls become sums. The table `pruned_tasks` has the tasks whose
records are still there; none of a store that does not delete actors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import NamedTuple, TypeVar

from meshwright.core.messages import Event
from meshwright.core.topics import MESH
from meshwright.events.tasks import RECORDS_PRUNED
from meshwright.mesh import Mesh
from meshwright.sql.database import Session
from meshwright.work.protocol import TaskKey

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
        gone = [task for task in going if task.key.ref in deleted or await self._is_gone(task.key)]
        if gone:
            events = pruned_events(self._mesh, RECORDS_PRUNED, [task.key for task in gone])
            await self._mesh.write(_forget, gone, events)
        return len(gone)

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
        mesh.event(event_type, {"count": len(ids), "tasks": ids}, topic=MESH, tenant_id=tenant_id)
        for tenant_id, ids in tenants.items()
    ]


def _note(
    session: Session, pruned: Sequence[PrunedTask], events: Sequence[Event]
) -> tuple[None, Sequence[Event]]:
    session.insert("pruned_tasks (pruned_at, tenant_id, task_id)", pruned, then="ON CONFLICT DO NOTHING")
    return None, events


def _forget(
    session: Session, gone: Sequence[PrunedTask], events: Sequence[Event]
) -> tuple[None, Sequence[Event]]:
    for task in gone:
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

"""Retention: tasks that ended long enough ago leave the lists, and their contents go; later their records.

The event log is apart: `keep_events_days` is its age, and the audit trail in it stays; so do the costs of
calls. A task is pruned after the one that has delegated it, and not while one below it, or one of its thread,
is open.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import NamedTuple

from pydantic import BaseModel

from meshwright.core.access import Role
from meshwright.core.errors import InvalidInput
from meshwright.core.messages import Caller
from meshwright.core.operations import Rule, operation
from meshwright.events.audit import Audit
from meshwright.events.tasks import PRUNED
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.timers import Duty
from meshwright.mesh import Mesh
from meshwright.services.retention.records import (
    RecordPruner,
    delete_empty,
    erase_tasks,
    pruned_events,
    side_by_side,
)
from meshwright.services.retention.settings import RetentionSettings
from meshwright.sql.database import Session
from meshwright.work.protocol import TaskKey

_PAUSE_SECONDS = 3600.0
_MAX_TASKS_PER_CALL, _MAX_RECORDS_PER_CALL = 2_000, 10_000  # for a caller who waits: some seconds
_PAGE_SIZE = 2_000  # rows of the list that are read in one go
_OPEN = "SELECT tenant_id, task_id, parent_task_id, thread_id FROM tasks WHERE completed_at IS NULL"
_PARENT = "SELECT parent_task_id FROM tasks WHERE tenant_id = ? AND task_id = ?"


class Pruned(BaseModel):
    """How many tasks were pruned, by status, or would be (`dry_run`); `has_more` where others are left.

    `records` counts the tasks that were pruned before, and of which nothing is left now but sums of costs.
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
        needed = await self._mesh.log.view_apart(_needed)
        chosen: set[TaskKey] = set()
        while True:
            last, page = await self._mesh.database.read_apart(_page, reached, before, needed, chosen)
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


def _page(
    session: Session, after: int, before: dict[str, float], needed: _KeptByOpenTasks, chosen: set[TaskKey]
) -> tuple[int | None, list[_EndedTask]]:
    """The next tasks that may go, now `gone`, and the `seq` that was reached; None at the end of the list."""
    old = " OR ".join(["(status = ? AND completed_at <= ?)"] * len(before))
    query = (
        "SELECT seq, tenant_id, task_id, status, parent_task_id, thread_id FROM tasks "  # noqa: S608 code
        f"WHERE seq > ? AND ({old}) ORDER BY seq LIMIT ?"
    )
    values = [value for pair in before.items() for value in pair]
    rows = session.execute(query, (after, *values, _PAGE_SIZE)).fetchall()
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

"""Deletes what was said at the steps of tasks that ended long ago; what happened stays in the event log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from meshwright.core.messages import Dispatch
from meshwright.events.filter import EventFilter
from meshwright.events.log import EventLog
from meshwright.events.tasks import ended_tasks
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.orchestration.presence import every
from meshwright.work.earlier import streams_of
from meshwright.work.protocol import TaskKey, steps_stream
from meshwright.work.record import TaskRecord

PRUNED = "contents.pruned"
"""The event of contents that were deleted: of how many tasks, and up to which end (`ended_before`)."""
_TASKS_AT_ONCE = 100
_PAUSE_SECONDS = 3600.0


class Contents:
    """Deletes the journals of tasks once they have ended so many days ago, hourly."""

    def __init__(
        self, host: Runtime, log: EventLog, tell: Callable[[str, dict[str, Any]], None], *, keep_days: float
    ) -> None:
        self._host = host
        self._log = log
        self._tell = tell
        self._keep = timedelta(days=keep_days)
        self._pruning: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        log.before_prune = self.prune  # the list of tasks, by which they are found, goes with the events

    async def start(self) -> None:
        """Begin to delete."""
        self._pruning = asyncio.create_task(every(self._host.clock, _PAUSE_SECONDS, self.prune))

    async def stop(self) -> None:
        """Delete no more."""
        pruning, self._pruning = self._pruning, None
        if pruning is not None:
            pruning.cancel()
            with suppress(asyncio.CancelledError):
                await pruning

    async def prune(self) -> None:
        """Delete the contents that are old enough, of some tasks at a time."""
        async with self._lock:
            before = self._host.clock.now() - self._keep
            since, deleted = await self._pruned_before(), 0
            while tasks := await self._log.view(
                ended_tasks, since.timestamp(), before.timestamp(), _TASKS_AT_ONCE
            ):
                for tenant_id, task_id, ended_at in tasks:
                    await delete_steps(self._host, self._log, TaskKey(tenant_id, task_id))
                    since = datetime.fromtimestamp(ended_at, UTC)
                deleted += len(tasks)
                await asyncio.sleep(0)
            if deleted:
                self._tell(PRUNED, {"tasks": deleted, "ended_before": since.isoformat()})

    async def _pruned_before(self) -> datetime:
        newest = EventFilter(event_type=PRUNED, order="desc", limit=1)
        with suppress(LookupError, TypeError, ValueError):
            return datetime.fromisoformat((await self._log.query(newest))[0].fields["ended_before"])
        return datetime.fromtimestamp(0, UTC)


async def delete_steps(host: Runtime, log: EventLog, key: TaskKey) -> None:
    """Delete what was said at the steps of a task that has ended, in every attempt and generation."""
    record = await host.read(key.ref)
    task = record.task if isinstance(record, TaskRecord) else None
    if task is None or record.is_open:
        return
    attempts = [(attempt.agent_id, task.generation, attempt.attempt) for attempt in record.attempts]
    if task.generation > 1:
        attempts = await _all_attempts(log, key)
    for agent_id, generation, attempt in attempts:
        ref = ActorRef(agent_id, f"{task.tenant_id}:{task.thread_id}")
        streams = await streams_of(host, ref, steps_stream(task.task_id, generation, attempt))
        await host.delete_records(ref, streams)


async def _all_attempts(log: EventLog, key: TaskKey) -> list[tuple[str, int, int]]:
    """The attempts of each generation: the task itself knows those of its last."""
    wanted = EventFilter(task_id=key.task_id, tenant_id=key.tenant_id, event_type="task.dispatched")
    attempts = []
    async for event in log.replay(wanted):
        with suppress(ValueError, ArithmeticError):  # erased
            dispatch = Dispatch.model_validate(event.fields)
            attempts.append((dispatch.agent_id, dispatch.task.generation, dispatch.attempt))
    return attempts

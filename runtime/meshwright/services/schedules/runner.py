"""The runner of schedules: finds those with something to do, and submits the tasks of their runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from meshwright.core import topics
from meshwright.core.access import Role
from meshwright.core.clock import Backoff, unless
from meshwright.core.errors import HostError, IdempotencyConflict, MeshError, NoAgentAvailable, NotFound
from meshwright.core.messages import ENDED, Caller, Event
from meshwright.edges.replies.courier import until_answered
from meshwright.identity.operations import Operations
from meshwright.mesh import Mesh
from meshwright.orchestration.acceptance import FINAL
from meshwright.services.schedules import table
from meshwright.services.schedules.schedule import (
    SOURCE,
    PendingRun,
    Put,
    Schedule,
    ScheduleKey,
    ScheduleState,
)
from meshwright.work.record import read_task

_LOOK = timedelta(seconds=2)  # between two looks at a table that other processes write too
_NEVER = datetime.max.replace(tzinfo=UTC)
_logger = logging.getLogger("meshwright.schedules")


class ScheduleRunner:
    """Submits the tasks of runs that are due, and reports the results to their schedules.

    Of several processes on one database each schedule is claimed by one. Every step may be repeated, here or
    in another process: a task is known by its idempotency key.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh, self._clock = mesh, mesh.runtime.clock
        self._wake_at = _NEVER
        self._has_news = asyncio.Event()
        self._polling: asyncio.Task[None] | None = None
        self._working: dict[ScheduleKey, asyncio.Task[None]] = {}
        self._again: dict[ScheduleKey, datetime] = {}
        mesh.runtime.listen(topics.TASK_PROGRESS, self._ended, FINAL, sealed=True)

    async def start(self) -> None:
        """Begin, with the schedules whose tasks have ended before. Idempotent."""
        if self._polling is not None:
            return
        self._polling = asyncio.create_task(self._poll(), name="schedules")
        for key in list(self._again):
            self.signal(key)

    async def stop(self) -> None:
        """End; open runs go on at the next start."""
        polling, self._polling = self._polling, None
        tasks = [task for task in (polling, *self._working.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def change(self, key: ScheduleKey, method: Callable[..., Any], *args: Any) -> Any:
        """Change a schedule by a method of `Schedule`; returns its result once that is durable."""
        return await self._write(table.change, key, self._clock.now(), method, *args)

    async def put(self, key: ScheduleKey, change: Put, most: int) -> bool:
        """Create or change a schedule; returns whether it is new once that is durable."""
        return await self._write(table.put, key, self._clock.now(), change, most)

    async def _write(self, function: Callable[..., table.Written], *args: Any) -> Any:
        result, wake_at = await self._mesh.write(function, *args)
        self._note(wake_at)
        return result

    def signal(self, key: ScheduleKey, now: datetime | None = None) -> None:
        """Look now at what there is to do for a schedule."""
        self._again[key] = now or self._clock.now()
        if self._polling is not None and key not in self._working:
            self._working[key] = asyncio.create_task(self._work(key), name=f"runs of {key.name}")

    async def submit(self, key: ScheduleKey, state: ScheduleState, run: PendingRun) -> None:
        """Submit the task of a run, and report the result."""
        await self.change(key, *await until_answered(partial(self._submit, key, state, run)))

    def _note(self, wake_at: datetime | None) -> None:
        if wake_at is not None and wake_at < self._wake_at:
            self._wake_at = wake_at
            self._has_news.set()

    def _ended(self, event: Event) -> None:
        """A run that is queued may start when the one before it has ended."""
        source, _, rest = (event.idempotency_key or "").partition(":")
        if source == SOURCE:
            self.signal(ScheduleKey(event.tenant_id, rest.partition(":")[0]))

    async def _poll(self) -> None:
        """Claim schedules whenever there is something to do for one."""
        pauses = Backoff(0.25, 30.0)
        while True:
            now, self._wake_at = self._clock.now(), _NEVER
            try:
                keys, wake_at = await self._mesh.database.write(table.claim, now)
            except Exception as error:  # noqa: BLE001 whatever it was, schedules must be looked for again
                _report("Schedules that are due are looked for again", error)
                await asyncio.sleep(pauses.next())
                continue
            pauses.reset()
            for key in keys:
                self.signal(key, now)
            self._note(wake_at)
            await self._sleep()

    async def _sleep(self) -> None:
        """Return when there is something to do, or another process may have left something."""
        clock = self._clock
        look_at = _NEVER if self._mesh.database.exclusive else clock.now() + _LOOK
        while (until := min(self._wake_at, look_at)) > clock.now():
            self._has_news.clear()
            await unless(self._has_news, clock.sleep_until(until))

    async def _work(self, key: ScheduleKey) -> None:
        try:
            while (now := self._again.pop(key, None)) is not None:
                with suppress(NotFound):  # it is deleted
                    await self._advance(key, now)
        except Exception as error:  # noqa: BLE001 whatever it was, the schedule goes on when its lease ends
            _report(f"The runs of {key.name} go on when their lease ends", error)
        finally:
            del self._working[key]

    async def _advance(self, key: ScheduleKey, now: datetime) -> None:
        state = await self._mesh.database.read(table.find, key)
        if not state.pending and (state.next_due_at is None or state.next_due_at > now):
            return
        ended_tasks = [task_id for task_id in state.open if await self._has_ended(key.tenant_id, task_id)]
        for run in await self._write(table.change, key, now, Schedule.advance, ended_tasks):
            await self.submit(key, state, run)
            self._again[key] = self._clock.now()  # a run that is queued behind it may start now

    async def _has_ended(self, tenant_id: str, task_id: str) -> bool:
        try:
            record, _ = await until_answered(partial(read_task, self._mesh.runtime, task_id, tenant_id))
        except NotFound:
            return True
        return record.status in ENDED

    async def _submit(self, key: ScheduleKey, state: ScheduleState, run: PendingRun) -> tuple[Any, ...]:
        """Submit the task of a run, and return the change that reports it. Raises HostError if unknown."""
        caller = Caller(
            tenant_id=key.tenant_id,
            requested_by=f"{SOURCE}:{key.schedule_id}",
            source=SOURCE,
            budgets=state.budgets,
            roles=frozenset({Role.SUBMITTER}),
        )
        operations = Operations(self._mesh, caller)
        for task_id in run.cancels:
            with suppress(NotFound):
                await operations.cancel(task_id)
        try:
            await operations.submit(state.spec.task, idempotency_key=run.idempotency_key)
        except HostError:
            raise
        except IdempotencyConflict:  # it was submitted before the schedule was changed
            pass
        except NoAgentAvailable as error:
            return Schedule.retry, run, f"{error.code}: {error}"
        except MeshError as error:
            return Schedule.report, run, "failed", f"{error.code}: {error}"
        return Schedule.report, run, "started", None


def _report(text: str, error: Exception) -> None:
    is_defect = not isinstance(error, HostError)
    _logger.log(logging.ERROR if is_defect else logging.INFO, "%s: %s", text, error, exc_info=is_defect)

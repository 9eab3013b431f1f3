"""The table of schedules: a row for each, written with the events that tell of its changes; and its runner.

Statements that SQLite and PostgreSQL both take. The runner finds the schedules with something to do, and
submits the tasks of their runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from meshwright import Event, MeshError
from meshwright.component import Caller, Mesh, Operations
from meshwright.engine.work.record import read_task
from meshwright.kit import (
    ENDED,
    FINAL,
    Backoff,
    Conflict,
    HostError,
    IdempotencyConflict,
    InvalidInput,
    NoAgentAvailable,
    NotFound,
    Role,
    Session,
    View,
    topics,
    unless,
    until_answered,
)
from meshwright.parts.schedules.schedule import (
    LEASE,
    SOURCE,
    PendingRun,
    Put,
    RunRecord,
    Schedule,
    ScheduledRun,
    ScheduleKey,
    ScheduleState,
    ScheduleSummary,
    unknown_schedule,
)

_MAX_CLAIMED = 100  # at a time
_KEY = "WHERE tenant_id = ? AND id = ?"
_INTO = "schedules (tenant_id, id, wake_at, document)"
_REPLACE = (
    "ON CONFLICT (tenant_id, id) DO UPDATE SET wake_at = excluded.wake_at, document = excluded.document"
)
_LIST = "SELECT id, document FROM schedules WHERE tenant_id = ? AND id > ? ORDER BY id LIMIT ?"
_ALL = "SELECT tenant_id, id, document FROM schedules"
_CLAIM = """
    UPDATE schedules SET wake_at = ? WHERE (tenant_id, id) IN (
        SELECT tenant_id, id FROM schedules WHERE wake_at <= ? ORDER BY wake_at LIMIT ? {})
    RETURNING tenant_id, id
"""
_LOCK = {"sqlite": "", "postgres": "FOR UPDATE SKIP LOCKED"}
_TASKS = "SELECT tenant_id, task_id, status, cost_usd FROM tasks WHERE task_id"


class SchedulePage(View):
    """Some schedules by id; `cursor` asks for those that follow, and is None at the end."""

    items: tuple[ScheduleSummary, ...]
    cursor: str | None = None


Written = tuple[tuple[Any, datetime | None], list[Event]]
"""The result of a change, when there is something to do for the schedule next, and the events."""


def find(session: Session, key: ScheduleKey) -> ScheduleState:
    """The state of a schedule. Raises NotFound."""
    values = [session.bindable(part) for part in key]
    row = session.execute(f"SELECT document FROM schedules {_KEY}", values).fetchone()  # noqa: S608 code
    if row is None:
        raise unknown_schedule(key.schedule_id)
    return ScheduleState.model_validate_json(row[0])


def put(session: Session, key: ScheduleKey, now: datetime, change: Put, most: int) -> Written:
    """Create or change a schedule; the result is whether it is new. A tenant may create up to `most`.

    Raises Conflict if it is to be new and exists, or comes from mesh.toml, and InvalidInput for one too many.
    """
    rows = session.execute("SELECT id FROM schedules WHERE tenant_id = ?", (key.tenant_id,)).fetchall()
    is_new = all(schedule_id != key.schedule_id for (schedule_id,) in rows)
    if change.is_new and not is_new:
        raise Conflict(
            f"There is a schedule {key.schedule_id!r} already", remedy="Choose another id", field="id"
        )
    if is_new and not change.declared and len(rows) >= most:
        raise InvalidInput(
            f"Tenant {key.tenant_id} has {most:,} schedules already",
            remedy="Delete some, or raise max_per_tenant in [schedules]",
            field="id",
        )
    schedule = Schedule(key, ScheduleState.new(change, now) if is_new else find(session, key), now)
    schedule.put(change, is_new=is_new)
    return _write(session, schedule, is_new)


def change(
    session: Session, key: ScheduleKey, now: datetime, method: Callable[..., Any], *args: Any
) -> Written:
    """Change a schedule by a method of `Schedule`. Raises NotFound, and what the method raises."""
    schedule = Schedule(key, find(session, key), now)
    return _write(session, schedule, method(schedule, *args))


def _write(session: Session, schedule: Schedule, result: Any) -> Written:
    if schedule.is_deleted:
        session.execute(f"DELETE FROM schedules {_KEY}", schedule.key)  # noqa: S608 code
        return (result, None), schedule.events
    wake_at = schedule.wake_at
    at = None if wake_at is None else wake_at.timestamp()
    row = (*schedule.key, at, schedule.state.model_dump_json())
    session.insert(_INTO, [row], then=_REPLACE)
    return (result, wake_at), schedule.events


def claim(session: Session, now: datetime) -> tuple[list[ScheduleKey], datetime | None]:
    """Take the schedules with something to do, which no other process gets for the time of a lease.

    Returns them, and when there is something to do for another one.
    """
    until = (now + LEASE).timestamp()
    statement = _CLAIM.format(_LOCK[session.dialect])
    rows = session.execute(statement, (until, now.timestamp(), _MAX_CLAIMED)).fetchall()
    [(at,)] = session.execute("SELECT min(wake_at) FROM schedules").fetchall()
    return [ScheduleKey(*row) for row in rows], None if at is None else datetime.fromtimestamp(at, UTC)


def list_schedules(session: Session, tenant_id: str, after: str, limit: int) -> SchedulePage:
    """A page of a tenant's schedules, by id, with the outcomes of their last runs so far."""
    values = (session.bindable(tenant_id), session.bindable(after), limit + 1)
    rows = session.execute(_LIST, values).fetchall()
    items = [ScheduleState.model_validate_json(text).summary(name) for name, text in rows[:limit]]
    last_runs = with_outcomes(session, tenant_id, [item.last_run for item in items if item.last_run])
    for item in items:
        if item.last_run:
            item.last_run = last_runs.pop()
    return SchedulePage(items=tuple(items), cursor=items[-1].id if len(rows) > limit else None)


def declared_schedules(session: Session) -> dict[ScheduleKey, ScheduleState]:
    """The schedules that mesh.toml had declared."""
    rows = session.execute(_ALL).fetchall()
    states = {ScheduleKey(*key): ScheduleState.model_validate_json(text) for *key, text in rows}
    return {key: state for key, state in states.items() if state.declared}


def with_outcomes(session: Session, tenant_id: str, runs: Sequence[RunRecord]) -> list[ScheduledRun]:
    """Runs, the last one first, with the outcomes and costs of their tasks."""
    rows = session.select_in(_TASKS, [run.task_id for run in runs if run.task_id])
    outcomes = {task_id: rest for tenant, task_id, *rest in rows if tenant == tenant_id}
    return [
        ScheduledRun(**dict(run) | {"outcome": status, "cost_usd": cost})
        for run in reversed(runs)
        for status, cost in [outcomes.get(run.task_id, (None, None))]
    ]


# The runner

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
        return await self._write(change, key, self._clock.now(), method, *args)

    async def put(self, key: ScheduleKey, change: Put, most: int) -> bool:
        """Create or change a schedule; returns whether it is new once that is durable."""
        return await self._write(put, key, self._clock.now(), change, most)

    async def _write(self, function: Callable[..., Written], *args: Any) -> Any:
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
                keys, wake_at = await self._mesh.database.write(claim, now)
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
        state = await self._mesh.database.read(find, key)
        if not state.pending and (state.next_due_at is None or state.next_due_at > now):
            return
        ended_tasks = [task_id for task_id in state.open if await self._has_ended(key.tenant_id, task_id)]
        for run in await self._write(change, key, now, Schedule.advance, ended_tasks):
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

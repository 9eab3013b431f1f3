"""The table of schedules: a row for each, written with the events that tell of its changes.

Statements that SQLite and PostgreSQL both take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from meshwright.core.errors import Conflict, InvalidInput
from meshwright.core.messages import Event, Plain, TaskStatus
from meshwright.core.money import Amount
from meshwright.services.schedules.schedule import (
    LEASE,
    Put,
    RunRecord,
    Schedule,
    ScheduleKey,
    ScheduleState,
    ScheduleSummary,
    unknown_schedule,
)
from meshwright.sql.database import Session

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


class ScheduledRun(RunRecord):
    """The result of a due time with the `outcome` of its task so far, and its cost."""

    outcome: TaskStatus | None = None
    cost_usd: Amount | None = None


class SchedulePage(Plain):
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
    """A page of a tenant's schedules, by id."""
    values = (session.bindable(tenant_id), session.bindable(after), limit + 1)
    rows = session.execute(_LIST, values).fetchall()
    items = tuple(ScheduleState.model_validate_json(text).summary(name) for name, text in rows[:limit])
    return SchedulePage(items=items, cursor=items[-1].id if len(rows) > limit else None)


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
        ScheduledRun(**dict(run), outcome=status, cost_usd=cost)
        for run in reversed(runs)
        for status, cost in [outcomes.get(run.task_id, (None, None))]
    ]

"""The list of schedules, a table made from their events, and the outcomes of a schedule's tasks."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pydantic import ValidationError

from meshwright.core import topics
from meshwright.core.encoding import encode
from meshwright.core.messages import Event, Plain, TaskStatus
from meshwright.core.money import Amount
from meshwright.services.schedules.actor import CHANGES, DELETED, RunRecord, ScheduleSummary
from meshwright.sql.database import Session

_INTO = "schedules (tenant_id, id, document)"
_REPLACE = "ON CONFLICT (tenant_id, id) DO UPDATE SET document = excluded.document"
_DELETE = "DELETE FROM schedules WHERE tenant_id = ? AND id = ?"
_LIST = "SELECT document FROM schedules WHERE tenant_id = ? AND id > ? ORDER BY id LIMIT ?"
_COUNT = "SELECT count(*) FROM schedules WHERE tenant_id = ? AND id <> ?"
_ALL = "SELECT tenant_id, document FROM schedules"
_TASKS = "SELECT tenant_id, task_id, status, cost_usd FROM tasks WHERE task_id"


class ScheduledRun(RunRecord):
    """The result of a due time with the `outcome` of its task so far, and its cost."""

    outcome: TaskStatus | None = None
    cost_usd: Amount | None = None


class SchedulePage(Plain):
    """Some schedules by id; `cursor` asks for those that follow, and is None at the end."""

    items: tuple[ScheduleSummary, ...]
    cursor: str | None = None


class ScheduleProjection:
    """The table `schedules`."""

    name = "schedules"
    version = 1
    event_types: Collection[str] = CHANGES

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Write each schedule as its last event has it; skip events of other programs."""
        for event in events:
            found = event.fields.get("schedule") if event.topic == topics.MESH else None
            try:
                schedule = ScheduleSummary.model_validate(found)
            except ValidationError:
                continue
            if event.event_type == DELETED:
                session.execute(_DELETE, (event.tenant_id, schedule.id))
            else:
                document = encode(schedule.model_dump(mode="json", exclude_none=True)).decode()
                session.insert(_INTO, [(event.tenant_id, schedule.id, document)], then=_REPLACE)

    def clear(self, session: Session, oldest: int) -> None:
        """Delete nothing: each event writes a whole row."""


def list_schedules(session: Session, tenant_id: str, after: str, limit: int) -> SchedulePage:
    """A page of a tenant's schedules, by id."""
    values = (session.bindable(tenant_id), session.bindable(after), limit + 1)
    rows = session.execute(_LIST, values).fetchall()
    items = tuple(ScheduleSummary.model_validate_json(document) for (document,) in rows[:limit])
    return SchedulePage(items=items, cursor=items[-1].id if len(rows) > limit else None)


def count_others(session: Session, tenant_id: str, schedule_id: str) -> int:
    """How many schedules a tenant has beside one."""
    return session.execute(_COUNT, (session.bindable(tenant_id), schedule_id)).fetchone()[0]


def declared_schedules(session: Session) -> set[tuple[str, str]]:
    """Tenant and id of the schedules that mesh.toml had declared."""
    rows = session.execute(_ALL).fetchall()
    found = [(tenant_id, ScheduleSummary.model_validate_json(document)) for tenant_id, document in rows]
    return {(tenant_id, schedule.id) for tenant_id, schedule in found if schedule.declared}


def with_outcomes(session: Session, tenant_id: str, runs: Sequence[RunRecord]) -> list[ScheduledRun]:
    """Runs, the last one first, with the outcomes and costs of their tasks."""
    rows = session.select_in(_TASKS, [run.task_id for run in runs if run.task_id])
    known = {task_id: rest for tenant, task_id, *rest in rows if tenant == tenant_id}
    return [
        ScheduledRun(**dict(run), outcome=status, cost_usd=cost)
        for run in reversed(runs)
        for status, cost in [known.get(run.task_id, (None, None))]
    ]

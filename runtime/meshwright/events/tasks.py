"""The list of tasks, as it is kept from the log."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import Any

from meshwright.errors import InvalidInput
from meshwright.messages import Plain, TaskStatus, Usage
from meshwright.money import Amount

MAX_PAGE = 1000


class TaskSummary(Plain):
    """One task in a list. `reason` says why it waits or how it failed; `seq` is of its first event.

    `cost_usd` is None where nobody knows the price.
    """

    seq: int
    last_seq: int
    task_id: str
    tenant_id: str
    capability: str
    status: TaskStatus
    agent_id: str | None
    priority: int | None
    requested_by: str | None
    thread_id: str | None
    parent_task_id: str | None
    trace_id: str | None
    generation: int
    attempts: int
    reason: str | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    duration_ms: float | None
    model: str | None
    usage: Usage
    cost_usd: Amount | None


class TaskPage(Plain):
    """Some tasks, newest first; `cursor` asks for those that follow, and is None at the end."""

    items: tuple[TaskSummary, ...]
    cursor: str | None = None


USAGE = ("prompt_tokens", "completion_tokens")
COLUMNS = (*(name for name in TaskSummary.model_fields if name != "usage"), *USAGE)
COLUMN_LIST = ", ".join(COLUMNS)
OPEN_TASKS = "SELECT tenant_id, task_id, thread_id FROM tasks WHERE completed_at IS NULL"
TIMES = ("created_at", "updated_at", "completed_at")


def position_of(cursor: str | None) -> int:
    """The `seq` below which the next page begins. Raises InvalidInput for a cursor that is not ours."""
    if cursor is None:
        return 2**63 - 1
    if not cursor.isdecimal() or not cursor.isascii() or len(cursor) > 18:
        raise InvalidInput(
            f"{cursor[:40]!r} is not a cursor",
            remedy="pass the `cursor` of the page before, or none for the first",
            field="cursor",
        )
    return int(cursor)


def list_tasks(
    connection: sqlite3.Connection,
    tenant_id: str,
    status: str | None,
    capability: str | None,
    task_id: str | None,
    limit: int,
    before: int,
) -> TaskPage:
    """One page of a tenant's tasks."""
    limit = max(1, min(limit, MAX_PAGE))
    wanted = {"tenant_id": tenant_id, "status": status, "capability": capability}
    given = {name: value for name, value in wanted.items() if value is not None}
    conditions = ["seq < :before", *(f"{name} = :{name}" for name in given)]
    if task_id is not None:
        given["task_id"] = task_id
        conditions.append(
            ":task_id IN (substr(task_id, 1, length(:task_id)), substr(task_id, -length(:task_id)))"
        )
    if status is not None and status != "succeeded":
        source = "tasks INDEXED BY tasks_by_status"
        conditions.append("status <> 'succeeded'")
    else:
        source = "tasks INDEXED BY tasks_by_capability" if capability is not None else "tasks NOT INDEXED"
    where = ("WHERE", " AND ".join(conditions), "ORDER BY seq DESC LIMIT :limit")
    query = ("SELECT", COLUMN_LIST, "FROM", source, *where)
    parameters = {**given, "before": before, "limit": limit + 1}
    rows = connection.execute(" ".join(query), parameters).fetchall()
    items = tuple(map(_summary, rows[:limit]))
    return TaskPage(items=items, cursor=str(items[-1].seq) if len(rows) > limit else None)


def open_tasks(connection: sqlite3.Connection) -> list[tuple[str, str, str | None]]:
    """(tenant_id, task_id, thread_id) of every task that has no outcome."""
    return connection.execute(OPEN_TASKS).fetchall()


def _summary(row: tuple[Any, ...]) -> TaskSummary:
    fields = dict(zip(COLUMNS, row, strict=True))
    usage = Usage(**{name: fields.pop(name) for name in USAGE})
    for name in TIMES:
        if fields[name] is not None:
            fields[name] = datetime.fromtimestamp(fields[name], UTC)
    return TaskSummary(**fields, usage=usage)

"""The flow of the last minutes: tasks and calls that passed between callers, agents and models."""

from __future__ import annotations

from typing import Any

from meshwright.kit import Session
from meshwright.parts.figures.records import Flow

_MAX_ROWS = 1_000  # the newest tasks, and the newest calls
_BAD = "sum(CASE WHEN {} THEN 1 ELSE 0 END)"
_TASKS = (
    "SELECT parents.agent_id, last.agent_id, count(*), "  # noqa: S608 code
    + _BAD.format("last.status IN ('failed', 'timed_out')")
    + " FROM (SELECT tenant_id, agent_id, status, parent_task_id, created_at FROM tasks "
    "WHERE {} ORDER BY {} DESC LIMIT :limit) AS last "
    "LEFT JOIN tasks AS parents ON parents.task_id = last.parent_task_id "
    "AND parents.tenant_id = last.tenant_id WHERE last.created_at >= :since AND last.agent_id IS NOT NULL "
    "AND (last.parent_task_id IS NULL OR parents.agent_id IS NOT NULL) "
    "GROUP BY parents.agent_id, last.agent_id"
)
_CALLS = (
    "SELECT agent_id, NULL, count(*), "  # noqa: S608 code
    + _BAD.format("outcome = 'failed'")
    + " FROM (SELECT agent_id, outcome, time, cache_hit FROM calls "
    "WHERE {} ORDER BY {} DESC LIMIT :limit) AS last "
    "WHERE time >= :since AND cache_hit = 0 GROUP BY agent_id"
)


def read_flows(session: Session, tenant_id: str | None, since: float) -> list[Flow]:
    """The tasks that were accepted since a time, by who gave them, and the calls that ended, by agent."""
    values: dict[str, Any] = {"since": since, "limit": _MAX_ROWS}
    of_tenant, orders = "1 = 1", ("seq", "seq")
    if tenant_id is not None:
        values["tenant_id"] = session.bindable(tenant_id)
        of_tenant, orders = "tenant_id = :tenant_id", ("last_seq", "time")  # as the indices have them
    return [
        Flow(source=source, target=target, count=count, failed=int(failed))
        for query, order in zip((_TASKS, _CALLS), orders, strict=True)
        for source, target, count, failed in session.execute(
            query.format(of_tenant, order), values
        ).fetchall()
    ]

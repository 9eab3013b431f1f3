"""The activity in a tenant since a time: tasks that ended, open questions to people, and costs."""

from __future__ import annotations

from datetime import datetime
from itertools import groupby
from operator import itemgetter

from meshwright.core.messages import Plain
from meshwright.events.filter import EventFilter, seconds
from meshwright.events.inbox import Inbox, InboxPage
from meshwright.events.log import EventLog
from meshwright.events.tasks import TaskSummary
from meshwright.ledger.costs import Costs, costs_of
from meshwright.sql.database import Session

_MAX_LISTED = 20
_MAX_COUNTED = 1_000
_ENDED = (
    "SELECT coalesce(agent_id, 'none'), status, count(*) FROM tasks WHERE tenant_id = ? AND completed_at > ? "
    "GROUP BY 1, 2 ORDER BY 1, 2"
)
_OPEN = "SELECT count(*) FROM tasks WHERE tenant_id = ? AND completed_at IS NULL"


class Activity(Plain):
    """The activity in a tenant since a time. Of each list there are 20 entries at most, the last ones.

    `ended` counts tasks by agent and outcome; `failed` has those that failed or timed out; `open` counts
    those without an outcome, `dead_letters` those that no agent could do, up to 1,000. `waiting` is what
    waits for people.
    """

    since: datetime
    until: datetime
    ended: dict[str, dict[str, int]]
    failed: tuple[TaskSummary, ...]
    open: int
    dead_letters: int
    waiting: InboxPage
    costs: Costs


async def activity_of(log: EventLog, tenant_id: str, since: datetime, until: datetime) -> Activity:
    """The activity in a tenant from one time to another, which is now."""
    ended, count = await log.view_apart(_counts, tenant_id, seconds(since))
    pages = [
        await log.tasks(tenant_id=tenant_id, status=status, limit=_MAX_LISTED)
        for status in ("failed", "timed_out")
    ]
    failed = [
        task for page in pages for task in page.items if task.completed_at and task.completed_at > since
    ]
    dead = EventFilter(event_type="task.dead_lettered", tenant_id=tenant_id, since=since, limit=_MAX_COUNTED)
    return Activity(
        since=since,
        until=until,
        ended=ended,
        failed=tuple(sorted(failed, key=lambda task: task.updated_at, reverse=True)[:_MAX_LISTED]),
        open=count,
        dead_letters=len(await log.query(dead)),
        waiting=await Inbox(log).page(tenant_id, limit=_MAX_LISTED),
        costs=await costs_of(log, tenant_id=tenant_id, since=since, limit=_MAX_LISTED),
    )


def _counts(session: Session, tenant_id: str, since: float) -> tuple[dict[str, dict[str, int]], int]:
    tenant_id = session.bindable(tenant_id)
    rows = session.execute(_ENDED, (tenant_id, since)).fetchall()
    ended = {
        agent_id: {status: count for _, status, count in of_agent}
        for agent_id, of_agent in groupby(rows, key=itemgetter(0))
    }
    [(count,)] = session.execute(_OPEN, (tenant_id,)).fetchall()
    return ended, count

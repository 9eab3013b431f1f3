"""Costs of tasks: estimates from the last ones of an agent or a capability, and the sums of a task's tree."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from meshwright.core.errors import InvalidInput
from meshwright.core.messages import Plain, TaskStatus
from meshwright.core.money import Amount, from_pico
from meshwright.events.log import EventLog
from meshwright.events.task_lists import tasks_below
from meshwright.events.tasks import TaskSummary
from meshwright.ledger.cost_sums import MILLION
from meshwright.sql.database import Session

_MAX_TASKS = 500  # the last ones count
_SHARE = 0.9


class TaskEstimate(Plain):
    """The costs of the last tasks of an agent or a capability.

    `tasks` are those that succeeded and whose cost is known, `unknown` those whose cost is not. The amounts
    are None where there is no such task: `median_usd`, what nine of ten did not exceed, and the most.
    """

    agent_id: str | None = None
    capability: str | None = None
    tasks: int
    unknown: int
    median_usd: Amount | None = None
    p90_usd: Amount | None = None
    max_usd: Amount | None = None


async def estimate_of(
    log: EventLog, *, agent_id: str | None, capability: str | None, tenant_id: str | None
) -> TaskEstimate:
    """Estimate a task from the last 500 that succeeded, of a tenant or of all (None).

    Raises InvalidInput where neither an agent nor a capability is named.
    """
    if agent_id is None and capability is None:
        raise InvalidInput("neither a capability nor an agent is named", remedy="name one", field="agent_id")
    filters = {"agent_id": agent_id, "capability": capability, "tenant_id": tenant_id}
    costs = await log.view(_costs_of, {name: value for name, value in filters.items() if value is not None})
    known_costs = sorted(cost for cost in costs if cost is not None)
    fields = {"tasks": len(known_costs), "unknown": len(costs) - len(known_costs)}
    if known_costs:
        shares = {"median_usd": 0.5, "p90_usd": _SHARE, "max_usd": 1.0}
        fields |= {name: _quantile(known_costs, share) for name, share in shares.items()}
    return TaskEstimate(agent_id=agent_id, capability=capability, **fields)


def _quantile(ordered: list[Decimal], share: float) -> Decimal:
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _costs_of(session: Session, filters: dict[str, str]) -> list[Decimal | None]:
    values: dict[str, Any] = {name: session.bindable(value) for name, value in filters.items()}
    conditions = ["status = 'succeeded'", *(f"{name} = :{name}" for name in values)]
    index = "tasks_by_capability" if "capability" in values and "tenant_id" in values else None
    query = ("SELECT cost_usd FROM", session.by_index("tasks", index), "WHERE", " AND ".join(conditions))
    order = "ORDER BY seq DESC LIMIT :limit"
    rows = session.execute(" ".join((*query, order)), {**values, "limit": _MAX_TASKS}).fetchall()
    return [_amount(cost) for (cost,) in rows]


def _amount(text: str | None) -> Decimal | None:
    try:
        return None if text is None else Decimal(text)
    except InvalidOperation:
        return None


_MAX_LISTED = 500
_NEVER = 1e12  # unix seconds
_LAG = timedelta(hours=1)  # of the clocks of other machines, and of calls that are recorded late
_SUMS = (
    "SELECT task_id, count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), "  # noqa: S608
    "count(*) FILTER (WHERE cost_pico IS NULL), "
    f"coalesce(sum(cost_pico / {MILLION}), 0), coalesce(sum(cost_pico % {MILLION}), 0) FROM calls "
    "WHERE tenant_id = :tenant_id AND time BETWEEN :since AND :until GROUP BY task_id"
)


class TaskNode(Plain):
    """A task of a tree; `depth` is how far below the root it is.

    `calls`, tokens, `cost_usd` and `unpriced` (calls whose cost is unknown) are those of its own calls of
    models; `tree_cost_usd` and `tree_unpriced` those of all below it too.
    """

    task_id: str
    parent_task_id: str | None
    depth: int
    capability: str
    agent_id: str | None
    status: TaskStatus
    error: str | None
    created_at: datetime
    completed_at: datetime | None
    duration_ms: float | None
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: Amount
    unpriced: int
    tree_cost_usd: Amount
    tree_unpriced: int


class TaskTree(Plain):
    """A task and those below it, each before its own, in the order in which they were delegated.

    `omitted` tasks are in the costs above them alone. `is_whole` is False where the tree is larger than
    10,000 tasks or deeper than 50: the rest counts nowhere.
    """

    items: tuple[TaskNode, ...]
    omitted: int
    is_whole: bool


class _OwnCost(NamedTuple):
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unpriced: int = 0
    cost_usd: Decimal = Decimal(0)


def task_tree(session: Session, tenant_id: str, task_id: str) -> TaskTree | None:
    """The tree of a tenant's task; None where the lists do not have it."""
    subtree = tasks_below(session, tenant_id, task_id)
    if not subtree.tasks:
        return None
    spent = _spent(session, tenant_id, subtree.tasks)
    below: dict[str | None, list[TaskSummary]] = {}
    for task in sorted(subtree.tasks[1:], key=lambda task: task.seq):
        below.setdefault(task.parent_task_id, []).append(task)
    sums: dict[str, tuple[Decimal, int]] = {}
    for task in reversed(subtree.tasks):  # level by level, the deepest first
        own = spent.get(task.task_id, _OwnCost())
        parts = [sums[child.task_id] for child in below.get(task.task_id, ())]
        cost = sum((part[0] for part in parts), start=own.cost_usd)
        sums[task.task_id] = cost, own.unpriced + sum(part[1] for part in parts)
    nodes: list[TaskNode] = []
    waiting = [(subtree.tasks[0], 0)]
    while waiting and len(nodes) < _MAX_LISTED:
        task, depth = waiting.pop()
        waiting += [(child, depth + 1) for child in reversed(below.get(task.task_id, ()))]
        nodes.append(_node(task, depth, spent.get(task.task_id, _OwnCost()), sums[task.task_id]))
    return TaskTree(items=tuple(nodes), omitted=len(subtree.tasks) - len(nodes), is_whole=subtree.is_whole)


def _node(task: TaskSummary, depth: int, own: _OwnCost, whole: tuple[Decimal, int]) -> TaskNode:
    fields: dict[str, Any] = {
        name: getattr(task, name) for name in TaskNode.model_fields if name in TaskSummary.model_fields
    }
    tree_cost, tree_unpriced = whole
    fields |= {"depth": depth, "tree_cost_usd": tree_cost, "tree_unpriced": tree_unpriced, **own._asdict()}
    return TaskNode(**fields)


def _spent(session: Session, tenant_id: str, tasks: Sequence[TaskSummary]) -> dict[str, _OwnCost]:
    """The sums of the calls of tasks, found among those of the time that they took."""
    ends = [task.completed_at for task in tasks if task.completed_at is not None]
    times = [*ends, *(task.created_at for task in tasks)]  # ends first where the clock was set back
    since = (min(times) - _LAG).timestamp()
    until = (max(times) + _LAG).timestamp() if len(ends) == len(tasks) else _NEVER
    values = {"tenant_id": session.bindable(tenant_id), "since": since, "until": until}
    names = {task.task_id for task in tasks}
    return {
        task_id: _OwnCost(
            int(calls), int(prompt), int(answer), int(unpriced), from_pico(int(high) * MILLION + int(low))
        )
        for task_id, calls, prompt, answer, unpriced, high, low in session.execute(_SUMS, values).fetchall()
        if task_id in names
    }

"""Costs of tasks: estimates from the last ones of an agent or a capability, and the sums of a task's tree.

Sums of calls whose tasks' records are gone, too: one for each hour, tenant, agent, model, deployment, prompt
and tags. Each row of calls is added to its sum and deleted in one transaction, so that costs stay what they
were; only the task and the thread of a call are lost. A sum is of the calls of one block of events, so that a
rebuild makes it again; once those events are pruned it becomes a part of the sum of all such (`seq` 0).

The table `call_hours` has the like sums of the calls that have a row, by which costs of whole hours are read,
and `calls_below` those of all below a task. Triggers keep the latter: calls and tasks come in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from operator import itemgetter
from typing import Any, NamedTuple

from meshwright.core.encoding import View
from meshwright.core.errors import InvalidInput
from meshwright.core.messages import TaskStatus
from meshwright.core.money import Amount, exact, from_pico
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.table import BLOCK_EVENTS
from meshwright.engine.events.task_lists import tasks_below, tenants_in
from meshwright.engine.events.tasks import TaskSummary
from meshwright.engine.sql.database import Row, Session, marks

MILLION = 1_000_000  # picodollars are added up in two parts, since SQLite's sum of them may not hold
HOUR_SECONDS = 3600
_KEYS = ("seq", "time", "tenant_id", "agent_id", "model", "deployment", "prompt", "tags")
_COUNTS = {
    "calls": "1",
    "failed": "CASE WHEN outcome <> 'ok' THEN 1 ELSE 0 END",
    "cache_hits": "cache_hit",
    "prompt_tokens": "prompt_tokens",
    "cached_tokens": "cached_tokens",
    "completion_tokens": "completion_tokens",
    "unpriced": "CASE WHEN cost_pico IS NULL THEN 1 ELSE 0 END",
}
_ESTIMATED_PICO = "CASE WHEN cost_source = 'estimated' THEN cost_pico END"
_AMOUNTS = {"cost": "cost_pico", "estimated": _ESTIMATED_PICO, "saved": "saved_pico"}
_PARTS = {
    f"{name}_{part}": f"{value} {operator} {MILLION}"
    for name, value in _AMOUNTS.items()
    for part, operator in (("millions", "/"), ("rest", "%"))
}
FIGURES = {**_COUNTS, **_PARTS}
"""The figures of a sum by name, each as that of one row of calls. An amount is NULL where none is known."""
_MAY_LACK = "coalesce(deployment, '') AS deployment, coalesce(prompt, '') AS prompt"
_NONE_IF_EMPTY = "nullif(deployment, '') AS deployment, nullif(prompt, '') AS prompt"
_SHARED_KEYS = f"tenant_id, agent_id, model, {_NONE_IF_EMPTY}, tags"
_SHARED = f"time, {_SHARED_KEYS}"
_OF_CALL = ", ".join(f"{value} AS {name}" for name, value in FIGURES.items())
_OLDEST = "(SELECT coalesce(min(seq), 1) FROM events)"
_BLOCK = (
    f"CASE WHEN seq < {_OLDEST} THEN 0 ELSE seq / {BLOCK_EVENTS} * {BLOCK_EVENTS} + {BLOCK_EVENTS - 1} END"
)
_OF_HOUR = ", ".join(
    f"CASE WHEN calls > unpriced THEN {name} END AS {name}" if name.startswith("cost_") else name
    for name in FIGURES
)
_OF_PRUNED_EVENTS = f"seq > 0 AND seq < {_OLDEST}"


def all_calls(calls: str, condition: str, *, of_tasks: bool = False) -> str:
    """Return SQL for the calls that match `condition`, joined by the hourly sums of pruned tasks.

    `calls` is the table, perhaps with its index. Hourly sums carry the start of the hour and neither task nor
    thread. Pass `of_tasks=True` for a condition on tasks or threads; sums are then left out.
    """
    own = _calls(calls, condition)
    return f"({own}) AS calls" if of_tasks else f"({own} UNION ALL {_sums('call_sums', condition)}) AS calls"


def calls_below(condition: str) -> str:
    """The same from the sums of the tasks that a task delegated itself; `condition` is about no time."""
    own = f"SELECT NULL AS task_id, 0 AS time, {_SHARED_KEYS}, {_OF_HOUR} FROM calls_below AS calls"  # noqa: S608
    return f"({own} WHERE is_child = 1 AND {condition}) AS calls"


def calls_by_hour(
    session: Session, condition: str, since: float | None, until: float | None, *, of_tenant: bool
) -> tuple[str, dict[str, float]]:
    """The same from sums of whole hours, as a table with its values; the calls of other hours one by one.

    The condition has the bounds of time too, as `:since` and `:until`, and is about no task and no thread.
    """
    first = None if since is None else -(-since // HOUR_SECONDS) * HOUR_SECONDS
    end = None if until is None else until // HOUR_SECONDS * HOUR_SECONDS
    calls = session.by_index("calls", "calls_by_time" if of_tenant else "calls_by_end")
    of_hours, values = condition, dict[str, float]()
    parts = list[str]()
    if first is not None and first != since:
        values["first_hour"] = first
        parts.append(_calls(calls, f"{condition} AND time < :first_hour"))
    if end is not None:
        values["end_hour"] = end
        of_hours += f" AND time <= :end_hour - {HOUR_SECONDS}"
        if end != until and (first is None or end >= first):
            parts.append(_calls(calls, f"{condition} AND time >= :end_hour"))
    parts += [_sums("call_hours", of_hours, _OF_HOUR), _sums("call_sums", condition)]
    return f"({' UNION ALL '.join(parts)}) AS calls", values


def _calls(calls: str, condition: str) -> str:
    return f"SELECT task_id, {_SHARED}, {_OF_CALL} FROM {calls} WHERE {condition}"  # noqa: S608 code


def _sums(table: str, condition: str, figures: str = ", ".join(FIGURES)) -> str:
    return f"SELECT NULL AS task_id, {_SHARED}, {figures} FROM {table} AS calls WHERE {condition}"  # noqa: S608


def count_hours(session: Session, condition: str, values: Sequence[Any] = (), *, sign: int = 1) -> None:
    """Add the calls that a condition finds to the sums of their hours, or with -1 take them away."""
    keys = f"{_hour(session)} AS time, tenant_id, agent_id, model, {_MAY_LACK}, tags"
    figures = ", ".join(f"{sign} * ({value}) AS {name}" for name, value in FIGURES.items())
    calls = f"SELECT {keys}, {figures} FROM calls WHERE {condition}"  # noqa: S608 code
    session.execute(_add("call_hours", _KEYS[1:], calls), values)
    if sign < 0:
        session.execute("DELETE FROM call_hours WHERE calls = 0")


def recount_hours(session: Session) -> None:
    """Make the sums of hours again, from the calls that have a row."""
    session.execute("DELETE FROM call_hours")
    count_hours(session, "1 = 1")


def sum_up(session: Session, tenant_id: str, task_ids: Sequence[str]) -> None:
    """Add the calls of a tenant's tasks to the sums, and delete their rows."""
    of_tasks = f"tenant_id = ? AND task_id IN ({marks(len(task_ids))})"
    keys = f"{_BLOCK} AS seq, {_hour(session)} AS time, tenant_id, agent_id, model, {_MAY_LACK}, tags"
    values = [session.bindable(value) for value in (tenant_id, *task_ids)]
    of_calls = f"SELECT {keys}, {_OF_CALL} FROM calls WHERE {of_tasks}"  # noqa: S608 code
    session.execute(_add("call_sums", _KEYS, of_calls), values)
    count_hours(session, of_tasks, values, sign=-1)
    session.execute(f"DELETE FROM calls WHERE {of_tasks}", values)  # noqa: S608 code
    rest = ", ".join((*_KEYS[1:], *FIGURES))
    of_pruned = f"SELECT 0 AS seq, {rest} FROM call_sums WHERE {_OF_PRUNED_EVENTS}"  # noqa: S608 code
    session.execute(_add("call_sums", _KEYS, of_pruned))
    session.execute(f"DELETE FROM call_sums WHERE {_OF_PRUNED_EVENTS}")  # noqa: S608 code


def clear_sums(session: Session, oldest: int) -> None:
    """Delete the sums of calls whose event is in the log."""
    session.execute("DELETE FROM call_sums WHERE seq >= ?", (oldest,))


def _hour(session: Session) -> str:
    """The beginning of the hour in which a call ended, as unix seconds."""
    return f"{whole_part(session, f'time / {HOUR_SECONDS}')} * {HOUR_SECONDS}"


def whole_part(session: Session, number: str) -> str:
    """A positive number without its fraction."""
    return f"CAST({number} AS INTEGER)" if session.dialect == "sqlite" else f"floor({number})"


def _add(table: str, names: Sequence[str], calls: str) -> str:
    keys, sums = ", ".join(names), ", ".join(f"sum({name})" for name in FIGURES)
    added = ", ".join(
        f"{name} = coalesce({table}.{name} + excluded.{name}, {table}.{name}, excluded.{name})"
        for name in FIGURES
    )
    return (
        f"INSERT INTO {table} ({keys}, {', '.join(FIGURES)}) SELECT {keys}, {sums} "  # noqa: S608 code
        f"FROM ({calls}) AS added WHERE 1 = 1 GROUP BY {keys} "
        f"ON CONFLICT ({keys}) DO UPDATE SET {added}"
    )


_MAX_TASKS = 500  # the last ones count
_SHARE = 0.9


class TaskEstimate(View, kw_only=True):
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

    def __post_init__(self) -> None:
        for name in ("median_usd", "p90_usd", "max_usd"):
            exact(self, name, getattr(self, name))


async def estimate_task(
    log: EventLog, *, agent_id: str | None, capability: str | None, tenant_id: str | None
) -> TaskEstimate:
    """Estimate a task from the last 500 that succeeded, of a tenant or of all (None).

    Raises InvalidInput where neither an agent nor a capability is named.
    """
    if agent_id is None and capability is None:
        raise InvalidInput("neither a capability nor an agent is named", remedy="name one", field="agent_id")
    filters = {"agent_id": agent_id, "capability": capability, "tenant_id": tenant_id}
    costs = await log.view(_task_costs, {name: value for name, value in filters.items() if value is not None})
    known_costs = sorted(cost for cost in costs if cost is not None)
    median, p90, highest = (_quantile(known_costs, share) for share in (0.5, _SHARE, 1.0))
    return TaskEstimate(
        agent_id=agent_id,
        capability=capability,
        tasks=len(known_costs),
        unknown=len(costs) - len(known_costs),
        median_usd=median,
        p90_usd=p90,
        max_usd=highest,
    )


def _quantile(ordered: list[Decimal], share: float) -> Decimal | None:
    return None if not ordered else ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _task_costs(session: Session, filters: dict[str, str]) -> list[Decimal | None]:
    tenants = [filters["tenant_id"]] if "tenant_id" in filters else tenants_in(session, "tasks")
    conditions = ["status = 'succeeded'", *(f"{name} = :{name}" for name in {**filters, "tenant_id": ""})]
    index = "tasks_by_agent" if "agent_id" in filters else "tasks_by_capability"
    table = session.by_index("tasks", index)
    query = (
        f"SELECT seq, cost_usd FROM {table} WHERE {' AND '.join(conditions)} AND seq > :least "  # noqa: S608
        "ORDER BY seq DESC LIMIT :limit"
    )
    rows, least = list[Row](), 0
    for tenant_id in tenants:
        values = {
            name: session.bindable(value) for name, value in {**filters, "tenant_id": tenant_id}.items()
        }
        rows += session.execute(query, {**values, "limit": _MAX_TASKS, "least": least}).fetchall()
        rows = sorted(rows, key=itemgetter(0), reverse=True)[:_MAX_TASKS]
        least = rows[-1][0] if len(rows) == _MAX_TASKS else 0
    return [_amount(cost) for _, cost in rows]


def _amount(text: str | None) -> Decimal | None:
    try:
        return None if text is None else Decimal(text)
    except InvalidOperation:
        return None


_MAX_LISTED = 500
_SUMS = (
    "SELECT task_id, count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), "
    "count(*) FILTER (WHERE cost_pico IS NULL), "
    f"coalesce(sum(cost_pico / {MILLION}), 0), coalesce(sum(cost_pico % {MILLION}), 0) "
)
_OF_TASKS = "FROM {calls} WHERE tenant_id = ? AND task_id IN ({task_ids}) GROUP BY task_id"


class TaskNode(View):
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

    def __post_init__(self) -> None:
        for name in ("cost_usd", "tree_cost_usd"):
            exact(self, name, getattr(self, name))


class TaskTree(View):
    """A task and those below it, each before its own, in the order in which they were delegated.

    `omitted` tasks are in the costs above them alone. `is_whole` is False where the tree is deeper than 50
    tasks: those further below count nowhere.
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
    subtree = tasks_below(session, tenant_id, task_id, _MAX_LISTED)
    if not subtree.tasks:
        return None
    own_costs = _own_costs(session, tenant_id, [listed.task.task_id for listed in subtree.tasks])
    parents = [listed.task.task_id for listed in subtree.tasks if listed.below]
    sums = _costs_below(session, tenant_id, parents)
    nodes = list[TaskNode]()
    for task, depth, _ in subtree.tasks:
        own = own_costs.get(task.task_id, _OwnCost())
        cost, unpriced = sums.get(task.task_id, (Decimal(0), 0))
        nodes.append(_node(task, depth, own, (own.cost_usd + cost, own.unpriced + unpriced)))
    omitted = max(0, subtree.count - len(nodes))
    return TaskTree(items=tuple(nodes), omitted=omitted, is_whole=subtree.is_whole)


def _node(task: TaskSummary, depth: int, own: _OwnCost, whole: tuple[Decimal, int]) -> TaskNode:
    names = {*TaskNode.__struct_fields__} & {*TaskSummary.__struct_fields__}
    fields: dict[str, Any] = {name: getattr(task, name) for name in names}
    tree_cost, tree_unpriced = whole
    fields |= {"depth": depth, "tree_cost_usd": tree_cost, "tree_unpriced": tree_unpriced, **own._asdict()}
    return TaskNode(**fields)


def _own_costs(session: Session, tenant_id: str, task_ids: Sequence[str]) -> dict[str, _OwnCost]:
    """The sums of the calls of tasks."""
    calls = session.by_index("calls", "calls_of_task")
    query = _SUMS + _OF_TASKS.format(calls=calls, task_ids=marks(len(task_ids)))
    values = [session.bindable(value) for value in (tenant_id, *task_ids)]
    rows = session.execute(query, values).fetchall()
    return {
        task_id: _OwnCost(int(calls), int(prompt), int(answer), int(unpriced), _usd(high, low))
        for task_id, calls, prompt, answer, unpriced, high, low in rows
    }


def _costs_below(session: Session, tenant_id: str, task_ids: Sequence[str]) -> dict[str, tuple[Decimal, int]]:
    """The cost of the calls of all tasks below each of some, and how many of these have no price."""
    if not task_ids:
        return {}
    of_tasks = _OF_TASKS.format(calls="calls_below", task_ids=marks(len(task_ids)))
    query = f"SELECT task_id, sum(unpriced), sum(cost_millions), sum(cost_rest) {of_tasks}"
    values = [session.bindable(value) for value in (tenant_id, *task_ids)]
    rows = session.execute(query, values).fetchall()
    return {task_id: (_usd(high, low), int(unpriced)) for task_id, unpriced, high, low in rows}


def _usd(millions: int, rest: int) -> Decimal:
    return from_pico(int(millions) * MILLION + int(rest))

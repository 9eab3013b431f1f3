"""Estimates of tasks: the costs of the last ones of an agent or a capability."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from meshwright.core.errors import InvalidInput
from meshwright.core.messages import Plain
from meshwright.core.money import Amount
from meshwright.events.log import EventLog
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

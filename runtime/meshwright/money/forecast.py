"""The pace of budgets: what was spent of each in the last days, and when it reaches its limit so."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from meshwright.core.money import ZERO, fit
from meshwright.engine.events.log import EventLog
from meshwright.money.budgets import BudgetView
from meshwright.money.costs import Cost, CostQuery, Key, sum_costs

PACE_DAYS = 7
_DAY, _HOUR, _TICK = timedelta(days=1), timedelta(hours=1), timedelta(microseconds=1)
_MAX_ROWS = 20_000  # of one scope: those of the dearest come first each day
_FURTHEST = timedelta(days=3_650)
_KEYS: dict[str, Key] = {"mesh": "tenant", "tenant": "tenant", "agent": "agent", "tag": "tag"}
"""The key by which the calls of a scope are summed. Threads and tasks end before a rate says anything."""


class _Calls(NamedTuple):
    """The calls that some budgets count: those of a tenant or of all (None), summed by a key."""

    by: Key
    tenant_id: str | None


async def with_pace(log: EventLog, views: Sequence[BudgetView], now: datetime) -> list[BudgetView]:
    """The budgets with what was spent in each of the last days of UTC, and when they reach their limit."""
    first = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - (PACE_DAYS - 1) * _DAY
    costs = dict[_Calls, Sequence[Cost]]()
    paced = list[BudgetView]()
    for view in views:
        if view.scope not in _KEYS:
            paced.append(view)
            continue
        calls = _Calls(_KEYS[view.scope], None if view.scope == "tenant" else view.tenant_id)
        if calls not in costs:
            query = CostQuery(calls.tenant_id, calls.by, since=first, bucket="day")
            costs[calls] = (await sum_costs(log, query, limit=_MAX_ROWS)).items
        of_budget = [cost for cost in costs[calls] if view.scope == "mesh" or cost.key == view.key]
        paced.append(_paced(view, _by_day(of_budget, first), now, first))
    return paced


def _by_day(costs: Sequence[Cost], first: datetime) -> tuple[Decimal, ...]:
    days = [ZERO] * PACE_DAYS
    for cost in costs:
        place = (cost.time - first).days if cost.time is not None else PACE_DAYS
        if 0 <= place < PACE_DAYS:
            days[place] += cost.cost_usd or ZERO
    return tuple(days)


def _paced(view: BudgetView, days: tuple[Decimal, ...], now: datetime, first: datetime) -> BudgetView:
    """The rate is the mean since the first of the days on which a call cost something; of a day at least."""
    spending = [place for place, amount in enumerate(days) if amount]
    elapsed = max(_DAY, now - (first + spending[0] * _DAY)) if spending else _DAY
    per_day = fit(sum(days, ZERO) * Decimal(_DAY.total_seconds()) / Decimal(elapsed.total_seconds()))
    update = {"last_days_usd": days, "per_day_usd": per_day, "reached_at": _reached_at(view, per_day, now)}
    return view.model_copy(update=update)


def _reached_at(view: BudgetView, per_day: Decimal, now: datetime) -> datetime | None:
    """The time at which its limit is reached, the hour rounded up; that of the answer where it is by now."""
    left = view.limit_usd - view.spent_usd
    if left <= 0:
        return now
    if not per_day or left / per_day > _FURTHEST.days:
        return None
    reached = now + timedelta(seconds=float(left / per_day * Decimal(_DAY.total_seconds())))
    if view.renews_at is not None and reached >= view.renews_at:
        return None
    return (reached + _HOUR - _TICK).replace(minute=0, second=0, microsecond=0)

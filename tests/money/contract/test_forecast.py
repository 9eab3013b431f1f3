"""The pace of budgets: what was spent in the last days, and when the limit is reached at that rate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from meshwright.core.events import Event
from meshwright.models.port import Call
from meshwright.money.budgets import BudgetView
from meshwright.money.display import reached
from meshwright.money.forecast import with_pace
from tests.support.event_logs import LogOnFile, event

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 10, tzinfo=UTC)


def call(number: int, days_ago: int, cost: str, **fields: Any) -> Event:
    """The event of a call at noon of a day before today; of today at eleven."""
    payload = Call(call_id=f"c{number}", user=fields.pop("user", "writer"), cost_usd=Decimal(cost), **fields)
    ended = NOW - timedelta(days=days_ago, hours=0 if days_ago else 1)
    return event(number, "model.called", time=ended, payload=payload.payload())


def budget(scope: str = "agent", key: str = "writer", **fields: Any) -> BudgetView:
    known: dict[str, Any] = {"budget": "pot", "window": "total", "hard": True, "renews_at": None}
    amounts = {"limit_usd": Decimal(10), "spent_usd": Decimal(4), "reserved_usd": Decimal(0)}
    return BudgetView(**{**known, **amounts, "scope": scope, "key": key, **fields})


async def paced(store: LogOnFile, *views: BudgetView) -> list[BudgetView]:
    return await with_pace(store.log, views, NOW)


async def test_the_rate_is_that_of_the_days_since_the_first_call(store: LogOnFile) -> None:
    await store.write([call(1, 2, "2"), call(2, 0, "3"), call(3, 0, "7", user="other"), call(4, 40, "99")])
    [view] = await paced(store, budget())
    assert view.last_days_usd == (0, 0, 0, 0, 2, 0, 3)
    assert view.per_day_usd == 2  # $5 in two days and a half
    assert view.reached_at == NOW + timedelta(days=3)  # $6 are left
    assert view.limit_usd == 10


async def test_each_scope_counts_its_own_calls(store: LogOnFile) -> None:
    cheap = call(1, 0, "1", tags=("cheap", "night"))
    await store.write([cheap, call(2, 0, "2", user="other"), call(3, 0, "4", tenant_id="acme")])
    scopes = [
        budget("mesh", "mesh"),
        budget("mesh", "mesh", tenant_id="acme"),
        budget("tenant", "acme", tenant_id="acme"),
        budget("agent", "writer"),
        budget("tag", "night"),
        budget("tag", "day"),
    ]
    assert [view.per_day_usd for view in await paced(store, *scopes)] == [7, 4, 4, 5, 1, 0]
    for scope in ("task", "thread"):
        [view] = await paced(store, budget(scope, "default:t"))
        assert (view.last_days_usd, view.per_day_usd, view.reached_at) == ((), None, None)


async def test_a_limit_is_not_reached_in_a_window_that_ends_before(store: LogOnFile) -> None:
    await store.write([call(1, 0, "3")])
    until = {"window": "day", "renews_at": MIDNIGHT + timedelta(days=1)}
    late, early, full, idle = await paced(
        store,
        budget(**until),  # $6 at $3 a day
        budget(**until, spent_usd=Decimal("9.1")),  # 90 cents: seven hours and twelve minutes
        budget(**until, spent_usd=Decimal(10)),
        budget(key="idle"),
    )
    assert (late.reached_at, reached(late.model_dump(mode="json"))) == (None, "not in this period")
    assert early.reached_at == NOW + timedelta(hours=8)  # the hour is rounded up
    assert (full.reached_at, reached(full.model_dump(mode="json"))) == (NOW, "reached")
    assert (idle.per_day_usd, idle.reached_at) == (0, None)
    assert reached(idle.model_dump(mode="json")) == "not in sight"


async def test_a_limit_of_centuries_is_not_in_sight(store: LogOnFile) -> None:
    await store.write([call(1, 0, "0.000000000001")])
    [view] = await paced(store, budget(limit_usd=Decimal(1_000_000)))
    assert view.reached_at is None

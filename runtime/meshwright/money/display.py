"""Budgets and allowances, as the client and the commands show them."""

from __future__ import annotations

from decimal import Decimal

from meshwright.core.display import Column, Document, Resource, dollars, local_time, or_never


def estimated(estimate: Document) -> str:
    """The likely cost of a task, in a sentence."""
    whose = estimate["agent_id"] or estimate["capability"]
    unknown = f"; the cost of {estimate['unknown']:,} more is unknown" if estimate["unknown"] else ""
    if not estimate["tasks"]:
        return f"no estimate: no task of {whose} has succeeded with a known cost yet{unknown}"
    median, p90, most = (dollars(estimate[name]) for name in ("median_usd", "p90_usd", "max_usd"))
    count = "1 task" if estimate["tasks"] == 1 else f"{estimate['tasks']:,} tasks"
    return f"{median} (median), {p90} (90 %), {most} at most: the last {count} of {whose}{unknown}"


def _named_budget(budget: Document) -> str:
    return budget["budget"] if budget["hard"] else f"{budget['budget']} (soft)"


def _owner(budget: Document) -> str:
    return (
        "the mesh"
        if budget["scope"] == "mesh"
        else f"{budget['scope']} {budget.get('key', budget.get('of'))}"
    )


def _known(budget: Document) -> str:
    return dollars(Decimal(budget["spent_usd"]) - Decimal(budget.get("estimated_usd", 0)))


def _estimated(budget: Document) -> str:
    return dollars(budget.get("estimated_usd", "0"))


def _per_day(amount: str | None) -> str:
    return "" if amount is None else dollars(amount)


def render_spent(budget: Document) -> str:
    """How much of a budget is spent and reserved, in a line."""
    spent = (
        f"{_known(budget)} known, {_estimated(budget)} estimated, {dollars(budget['reserved_usd'])} reserved"
    )
    first = "cheaper models, then " if budget.get("cheaper") else ""
    return f"{dollars(budget['limit_usd'])}, on empty {first}{budget['on_empty']}: {spent}"


def reached(budget: Document) -> str:
    """The time at which a budget reaches its limit at the rate of the last days; "" where none is known."""
    if budget.get("per_day_usd") is None:
        return ""
    if Decimal(budget["spent_usd"]) >= Decimal(budget["limit_usd"]):
        return "reached"
    if at := budget.get("reached_at"):
        return local_time(at)[:16]
    return "not in sight" if budget.get("renews_at") is None else "not in this period"


BUDGETS = Resource(
    "budgets",
    "/budgets",
    (
        Column("budget", write=_named_budget, cut=2),
        Column("of", write=_owner),
        Column("window", "window"),
        Column("limit", "limit_usd", dollars),
        Column("known", write=_known),
        Column("estimated", write=_estimated),
        Column("reserved", "reserved_usd", dollars),
        Column("renews", "renews_at", or_never, cut=1),
        Column("a day", "per_day_usd", _per_day, cut=3),
        Column("at the limit", write=reached, cut=4),
    ),
    help="Show budgets and spend, and raise them.",
    empty="there is no budget; mesh.toml declares them as [[ledger.budgets]], and mesh allow sets one",
)


def _all_tenants(tenant_id: str | None) -> str:
    return tenant_id or "all"


def _allowed(allowance: Document) -> str:
    return f"{dollars(allowance['limit_usd'])}/{allowance['window']}"


ALLOWANCES = Resource(
    "allowances",
    "/allowances",
    (
        Column("whose", write=_owner),
        Column("tenant", "tenant_id", _all_tenants),
        Column("allowed", write=_allowed),
        Column("on empty", "on_empty"),
    ),
    help="Allow an agent, a tenant or a tag an amount a day.",
    command="allow",
    empty="nothing is allowed; mesh allow AGENT 5/day sets it",
)
RESOURCES = (BUDGETS, ALLOWANCES)

"""Budgets and allowances of a mesh, what they are raised by, and what a task is likely to cost."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from meshwright.core.messages import Identifier
from meshwright.core.money import Budget, Dollars, OnEmpty
from meshwright.edges.http.routing import make_router, may, problems
from meshwright.identity.administration import Administration
from meshwright.ledger.budgets import BudgetView
from meshwright.ledger.costs import TaskEstimate

router = make_router("costs")
_NOT_OPERATOR = {403: "The caller is no operator, or no operator of all tenants."}


class BudgetList(BaseModel):
    """Budgets, each with whose it is."""

    items: list[BudgetView]


class RaiseRequest(BaseModel):
    """Which budget to raise: its name, and whose (`key`) where each has one; or a task, for its own."""

    model_config = ConfigDict(extra="forbid")

    budget: str | None = Field(default=None, min_length=1, max_length=64)
    key: str | None = Field(default=None, min_length=1, max_length=512)
    task_id: Identifier | None = None
    tenant_id: Identifier | None = None
    amount_usd: Dollars = Field(gt=Decimal(0))


class AllowanceRequest(BaseModel):
    """Who may spend what: an agent's id, or `agent:ID`, `tenant:ID`, `tag:NAME` or `mesh`; like `5/day`.

    Without `on_empty` an allowance that is replaced keeps its own; a new one has `fail`.
    """

    model_config = ConfigDict(extra="forbid")

    whose: str = Field(min_length=1, max_length=128)
    allowance: str = Field(min_length=1, max_length=64)
    tenant_id: Identifier | None = None
    on_empty: OnEmpty | None = None


class AllowanceQuery(BaseModel):
    """Whose allowances."""

    model_config = ConfigDict(extra="forbid")

    whose: str = Field(min_length=1, max_length=128)
    tenant_id: Identifier | None = None


class AllowanceItems(BaseModel):
    """Allowances by name."""

    items: list[Budget]


class EstimateQuery(BaseModel):
    """Which tasks."""

    model_config = ConfigDict(extra="forbid")

    agent_id: Identifier | None = None
    capability: Identifier | None = None


@router.get("/budgets", summary="List budgets")
async def list_budgets(
    operations: Annotated[Administration, may("budgets", Administration)],
) -> BudgetList:
    """Show what each budget may spend, has spent and holds for calls under way, and when it renews.

    `estimated_usd` is the part of what is spent that no provider counted.
    A budget that each of a scope has for itself is shown for the last 1,000 of whom a call was made.
    """
    return BudgetList(items=await operations.budgets())


@router.post(
    "/budgets/raise",
    summary="Raise a budget",
    responses=problems({404: "There is no such budget.", **_NOT_OPERATOR}),
)
async def raise_budget(
    operations: Annotated[Administration, may("raise_budget", Administration)], wanted: RaiseRequest
) -> BudgetView:
    """Add dollars to a budget: for the rest of its window, or for good where that has no end.

    Tasks that wait for money go on.
    """
    return await operations.raise_budget(**dict(wanted))


@router.get("/allowances", summary="List allowances", responses=problems(_NOT_OPERATOR))
async def list_allowances(
    operations: Annotated[Administration, may("allowances", Administration)],
) -> AllowanceItems:
    """Show the budgets that were set while the mesh runs."""
    return AllowanceItems(items=await operations.allowances())


@router.put("/allowances", summary="Set an allowance", responses=problems(_NOT_OPERATOR))
async def set_allowance(
    operations: Annotated[Administration, may("allow", Administration)], wanted: AllowanceRequest
) -> Budget:
    """Allow somebody an amount in a window, in place of what was allowed in such a window before.

    It counts with the next call of a model, on every worker within a second.
    """
    return await operations.allow(**dict(wanted))


@router.delete(
    "/allowances",
    summary="Remove allowances",
    responses=problems({404: "There are none.", **_NOT_OPERATOR}),
)
async def remove_allowances(
    operations: Annotated[Administration, may("disallow", Administration)],
    query: Annotated[AllowanceQuery, Query()],
) -> AllowanceItems:
    """End the allowances of somebody, of every window, and show them."""
    return AllowanceItems(items=await operations.disallow(query.whose, tenant_id=query.tenant_id))


@router.get(
    "/costs/estimate",
    summary="Estimate a task",
    responses=problems({422: "Neither an agent nor a capability is named."}),
)
async def estimate_task(
    operations: Annotated[Administration, may("estimate", Administration)],
    query: Annotated[EstimateQuery, Query()],
) -> TaskEstimate:
    """Show what the last such tasks have cost, with all that they delegated: median and 90 %."""
    return await operations.estimate(agent_id=query.agent_id, capability=query.capability)

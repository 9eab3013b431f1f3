"""Budgets and allowances of a mesh, what they are raised by, and what a task is likely to cost."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from meshwright.core.messages import Caller, Identifier
from meshwright.core.money import Budget, Dollars, OnEmpty
from meshwright.edges.auth import require_all_tenants, visible_tenant
from meshwright.edges.http.routing import MeshDep, OperatorDep, ViewerDep, make_router, problems
from meshwright.ledger.budgets import BudgetView
from meshwright.ledger.estimate import TaskEstimate

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
async def list_budgets(mesh: MeshDep, caller: ViewerDep) -> BudgetList:
    """Show what each budget may spend, has spent and holds for calls under way, and when it renews.

    `estimated_usd` is the part of what is spent that no provider counted.
    A budget that each of a scope has for itself is shown for the last 1,000 of whom a call was made.
    """
    return BudgetList(items=await mesh.budget_views(visible_tenant(caller)))


@router.post(
    "/budgets/raise",
    summary="Raise a budget",
    responses=problems({404: "There is no such budget.", **_NOT_OPERATOR}),
)
async def raise_budget(mesh: MeshDep, caller: OperatorDep, wanted: RaiseRequest) -> BudgetView:
    """Add dollars to a budget: for the rest of its window, or for good where that has no end.

    Tasks that wait for money go on.
    """
    if wanted.task_id is None:
        require_all_tenants(caller, "raises a budget that is not a task's own")
    subject = f"budgets/{wanted.budget}" if wanted.task_id is None else f"tasks/{wanted.task_id}"
    details = {"of": wanted.key, "amount_usd": wanted.amount_usd, "tenant_id": wanted.tenant_id}
    async with mesh.audit.change(caller, "budget.raised", subject, details):
        return await mesh.spending.raise_budget(
            wanted.amount_usd,
            budget=wanted.budget,
            key=wanted.key,
            task_id=wanted.task_id,
            tenant_id=_tenant_of(caller, wanted.tenant_id) or caller.tenant_id,
        )


@router.get("/allowances", summary="List allowances", responses=problems(_NOT_OPERATOR))
async def list_allowances(mesh: MeshDep, caller: OperatorDep) -> AllowanceItems:
    """Show the budgets that were set while the mesh runs."""
    tenant_id = visible_tenant(caller)
    items = await mesh.allowances.items()
    return AllowanceItems(items=[item for item in items if tenant_id in (None, item.tenant_id)])


@router.put("/allowances", summary="Set an allowance", responses=problems(_NOT_OPERATOR))
async def set_allowance(mesh: MeshDep, caller: OperatorDep, wanted: AllowanceRequest) -> Budget:
    """Allow somebody an amount in a window, in place of what was allowed in such a window before.

    It counts with the next call of a model, on every worker within a second.
    """
    tenant_id = _tenant_of(caller, wanted.tenant_id)
    details = {"allowance": wanted.allowance, "tenant_id": tenant_id, "on_empty": wanted.on_empty}
    async with mesh.audit.change(caller, "allowance.set", f"allowances/{wanted.whose}", details):
        return await mesh.spending.allow(
            wanted.whose,
            wanted.allowance,
            tenant_id=tenant_id,
            on_empty=wanted.on_empty,
        )


@router.delete(
    "/allowances",
    summary="Remove allowances",
    responses=problems({404: "There are none.", **_NOT_OPERATOR}),
)
async def remove_allowances(
    mesh: MeshDep, caller: OperatorDep, query: Annotated[AllowanceQuery, Query()]
) -> AllowanceItems:
    """End the allowances of somebody, of every window, and show them."""
    tenant_id = _tenant_of(caller, query.tenant_id)
    subject, details = f"allowances/{query.whose}", {"tenant_id": tenant_id}
    async with mesh.audit.change(caller, "allowance.removed", subject, details):
        return AllowanceItems(items=await mesh.spending.disallow(query.whose, tenant_id=tenant_id))


@router.get(
    "/costs/estimate",
    summary="Estimate a task",
    responses=problems({422: "Neither an agent nor a capability is named."}),
)
async def estimate_task(
    mesh: MeshDep, caller: ViewerDep, query: Annotated[EstimateQuery, Query()]
) -> TaskEstimate:
    """Show what the last such tasks have cost, with all that they delegated: median and 90 %."""
    return await mesh.spending.estimate(
        agent_id=query.agent_id, capability=query.capability, tenant_id=visible_tenant(caller)
    )


def _tenant_of(caller: Caller, named: str | None) -> str | None:
    """The tenant that a caller means: any or none for one of all tenants, else its own."""
    if named not in (None, caller.tenant_id):
        require_all_tenants(caller, "names another tenant")
    return named if caller.all_tenants else caller.tenant_id

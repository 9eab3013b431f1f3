"""Operations on budgets, allowances and costs."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from meshwright.component import Audit
from meshwright.core.money import OnEmpty
from meshwright.core.operations import resolve_tenant
from meshwright.engine.events.filter import TaskFilter
from meshwright.kit import (
    ZERO,
    Acting,
    Budget,
    Dollars,
    Identifier,
    Input,
    Rule,
    operation,
    require_all_tenants,
    visible_tenant,
)
from meshwright.mesh.identity.filters import TaskCriteria, read_filter, require_known
from meshwright.mesh.identity.operations import NO_VALUE
from meshwright.mesh.identity.rules import OPERATOR, VIEWER
from meshwright.money.allowances import Allowances
from meshwright.money.budgets import BudgetView
from meshwright.money.costs import BY_PATTERN, Bucket, CostQuery, Costs
from meshwright.money.spending import Spending
from meshwright.money.task_costs import TaskEstimate

_NO_OPERATOR = {403: "The caller is no operator, or no operator of all tenants."}
_ALLOWANCE = """\
A spender with its allowance: an agent, or `agent:ID`, `tenant:ID`, `tag:NAME` or `mesh`; like `5/day`.

Without `on_empty` an allowance that is replaced keeps its own; a new one has `fail`.
"""
_Spender = Annotated[str, Field(min_length=1, max_length=128)]


class _CostQuery(Input, TaskCriteria):
    """One key to sum by or two (`agent,model`); times like `24h` ago (s, m, h, d or w), or RFC 3339.

    With a `bucket` the costs are a series. Agent, thread, model and prompt are those of the call, all other
    fields those of its task.
    """

    by: str = Field(default="agent", json_schema_extra={"pattern": BY_PATTERN})
    since: str | None = Field(default=None, min_length=1, max_length=40)
    until: str | None = Field(default=None, min_length=1, max_length=40)
    bucket: Bucket | None = None
    agent_id: Identifier | None = None


class BudgetList(BaseModel):
    """Budgets, each with whose it is."""

    items: list[BudgetView]


class RaiseRequest(Input):
    """Which budget to raise: its name, and whose (`key`) where each has one; or a task, for its own.

    With `cheaper` those of its calls that have no room go on with cheaper models, before they do what the
    budget says. It is raised, made cheaper, or both.
    """

    budget: str | None = Field(default=None, min_length=1, max_length=64)
    key: str | None = Field(default=None, min_length=1, max_length=512)
    task_id: Identifier | None = None
    tenant_id: Identifier | None = None
    amount_usd: Dollars | None = None
    cheaper: bool = False

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.amount_usd and not self.cheaper:
            raise ValueError("give an amount_usd that is greater than 0, or cheaper")
        return self


class AllowanceItems(BaseModel):
    """Allowances by name."""

    items: list[Budget]


class MoneyOperations(Acting):
    """The operations on money. Each raises what the operations of `Operations` raise.

    A change is recorded in the audit trail before it is made, and refused where it cannot be recorded.
    """

    @operation(
        Rule("lists budgets", VIEWER), "GET /budgets", "List budgets", name="list_budgets", tag="costs"
    )
    async def budgets(self) -> BudgetList:
        """Show what each budget may spend, has spent and holds for calls under way, and when it renews.

        `reached_at` is when it reaches its limit at the rate of the last days.
        `estimated_usd` is the part of what is spent that no provider counted.
        A budget that each of a scope has for itself is shown for the last 1,000 of whom a call was made.
        """
        views = await self.mesh.get(Spending).budget_views(visible_tenant(self.caller))
        return BudgetList(items=views)

    @operation(
        Rule("raises budgets", OPERATOR),
        "POST /budgets/raise",
        "Raise a budget",
        tag="costs",
        errors={404: "There is no such budget.", **_NO_OPERATOR},
        request=RaiseRequest,
    )
    async def raise_budget(
        self,
        amount_usd: Dollars | None = None,
        *,
        cheaper: bool = False,
        budget: str | None = None,
        key: str | None = None,
        task_id: str | None = None,
        tenant_id: str | None = None,
    ) -> BudgetView:
        """Add dollars to a budget, or let its calls be cheaper, for the rest of its window or for good.

        Tasks that wait for money go on. A call without room has its tags `expensive` and `medium` replaced by the
        budget's `cheaper_tag`, else `cheap`; where that has no room either, the task does what `on_empty` says.
        """  # noqa: E501
        if task_id is None:
            require_all_tenants(self.caller, "raises a budget that is not a task's own")
        subject = f"budgets/{budget}" if task_id is None else f"tasks/{task_id}"
        details = {"of": key, "amount_usd": amount_usd, "cheaper": cheaper, "tenant_id": tenant_id}
        async with self.mesh.get(Audit).change(self.caller, "budget.raised", subject, details):
            return await self.mesh.get(Spending).raise_budget(
                amount_usd or ZERO,
                cheaper=cheaper,
                budget=budget,
                key=key,
                task_id=task_id,
                tenant_id=resolve_tenant(self.caller, tenant_id) or self.caller.tenant_id,
            )

    @operation(
        Rule("lists allowances", OPERATOR),
        "GET /allowances",
        "List allowances",
        name="list_allowances",
        tag="costs",
        errors=_NO_OPERATOR,
    )
    async def allowances(self) -> AllowanceItems:
        """Show the budgets that were set while the mesh runs."""
        tenant_id = visible_tenant(self.caller)
        items = await self.mesh.get(Allowances).items()
        return AllowanceItems(items=[item for item in items if tenant_id in (None, item.tenant_id)])

    @operation(
        Rule("sets allowances", OPERATOR),
        "PUT /allowances",
        "Set an allowance",
        name="set_allowance",
        tag="costs",
        errors=_NO_OPERATOR,
        request="AllowanceRequest",
        about=_ALLOWANCE,
    )
    async def allow(
        self,
        whose: _Spender,
        allowance: Annotated[str, Field(min_length=1, max_length=64)],
        *,
        tenant_id: Identifier | None = None,
        on_empty: OnEmpty | None = None,
    ) -> Budget:
        """Allow somebody an amount in a window, in place of what was allowed in such a window before.

        It counts with the next call of a model, on every worker within a second.
        """
        tenant_id = resolve_tenant(self.caller, tenant_id)
        details = {"allowance": allowance, "tenant_id": tenant_id, "on_empty": on_empty}
        async with self.mesh.get(Audit).change(self.caller, "allowance.set", f"allowances/{whose}", details):
            return await self.mesh.get(Spending).allow(
                whose, allowance, tenant_id=tenant_id, on_empty=on_empty
            )

    @operation(
        Rule("removes allowances", OPERATOR),
        "DELETE /allowances",
        "Remove allowances",
        name="remove_allowances",
        tag="costs",
        errors={404: "There are none.", **_NO_OPERATOR},
    )
    async def disallow(self, whose: _Spender, *, tenant_id: Identifier | None = None) -> AllowanceItems:
        """End the allowances of somebody, of every window, and show them."""
        tenant_id = resolve_tenant(self.caller, tenant_id)
        subject, details = f"allowances/{whose}", {"tenant_id": tenant_id}
        async with self.mesh.get(Audit).change(self.caller, "allowance.removed", subject, details):
            return AllowanceItems(items=await self.mesh.get(Spending).disallow(whose, tenant_id=tenant_id))

    @operation(
        Rule("estimates tasks", VIEWER),
        "GET /costs/estimate",
        "Estimate a task",
        name="estimate_task",
        tag="costs",
        errors={422: "Neither an agent nor a capability is named."},
    )
    async def estimate(
        self, *, agent_id: Identifier | None = None, capability: Identifier | None = None
    ) -> TaskEstimate:
        """Show what the last such tasks have cost, with all that they delegated: median and 90 %."""
        tenant_id = visible_tenant(self.caller)
        return await self.mesh.get(Spending).estimate(
            agent_id=agent_id, capability=capability, tenant_id=tenant_id
        )

    @operation(
        Rule("sees costs", VIEWER),
        "GET /costs",
        "Sum up costs",
        name="sum_costs",
        tag="costs",
        errors={**NO_VALUE, 422: "`since` or `until` is not a time, or `by` nothing."},
        request=_CostQuery,
    )
    async def costs(
        self,
        by: str = "agent",
        *,
        since: str | None = None,
        until: str | None = None,
        bucket: Bucket | None = None,
        **of: str | None,
    ) -> Costs:
        """Sum up what calls of models have cost, most expensive first, and all of them together.

        With `bucket` there is an item for each hour or day of UTC in which calls ended, the earliest first.
        `cost_usd` is what is known of it, `estimated_usd` how much of that is of tokens that were estimated;
        `unpriced` counts the calls with an unknown cost.
        The holder of a key sees the calls of the key's tenant, the administrator those of all.
        """
        fields = read_filter(self.mesh, self.caller, {"since": since, "until": until, **of})
        start, end = fields.pop("since"), fields.pop("until")
        of_task = TaskFilter(**fields) if any(fields.values()) else None
        tenant_id = visible_tenant(self.caller)
        costs = await self.mesh.get(Spending).costs(CostQuery(tenant_id, by, start, end, bucket, of_task))
        if not costs.total.calls:
            await require_known(self.mesh, fields, tenant_id, of_calls=True)
        return costs

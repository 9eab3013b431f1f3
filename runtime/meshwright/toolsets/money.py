"""Tools that read what a mesh spends, and may spend, in the tenant of their task; every figure is exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from meshwright.agents.tools.tool import Tool, ToolContext, Unchanged, tool
from meshwright.agents.tools.toolset import Toolset
from meshwright.core.errors import ToolFailed
from meshwright.core.messages import Task
from meshwright.core.money import OnEmpty

_Bucket = Literal["hour", "day"]
_Since = Annotated[str, Field(max_length=40)]
_Count = Annotated[int, Field(ge=1, le=100)]
_MAX_ITEMS = 50


class Money(Protocol):
    """The money of a mesh, as a run may see it; the component `money` provides it."""

    async def spend(
        self, task: Task, by: str, since: str | None, until: str | None, bucket: _Bucket | None
    ) -> dict[str, Any]:
        """The costs of calls of models."""

    async def budgets(self, task: Task) -> list[dict[str, Any]]:
        """The budgets of the task's tenant with their accounts; in the default one those of the mesh too."""

    async def estimate(self, task: Task, agent_id: str) -> dict[str, Any]:
        """The cost of an agent's last tasks."""

    async def prices(self, task: Task) -> list[dict[str, Any]]:
        """The prices of models."""

    async def litellm_spend(self, task: Task, by: str, since: str | None) -> dict[str, str]:
        """The spend that a LiteLLM proxy has counted."""

    async def allowances(self, task: Task) -> list[dict[str, Any]]:
        """The allowances that were set."""

    async def set_allowance(
        self, task: Task, agent_id: str, whose: str, allowance: str, on_empty: OnEmpty
    ) -> dict[str, Any]:
        """Set an allowance."""


class MoneySettings(BaseModel):
    """[tools.money]: what agents may read beside the ledger."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    litellm_tenant: str = ""
    """The tenant whose agents may read what the LiteLLM proxy of `models.base_url` has counted: of all that
    use it, since a proxy knows no tenants. Unset, no agent may."""


class MoneyReadTools(Toolset):
    """Reads costs, budgets, estimates and prices."""

    name = "money"
    config_type: ClassVar[type[BaseModel] | None] = MoneySettings

    async def tools(self) -> Sequence[Tool]:
        """The tools; that of a LiteLLM proxy only where a tenant may read it."""
        offered = await super().tools()
        return [tool for tool in offered if tool.name != "litellm_spend" or self.config.litellm_tenant]

    @property
    def money(self) -> Money:
        """The money of the mesh."""
        try:
            return self.settings.get(Money)
        except LookupError:
            problem = "This mesh shows agents no money"
            raise ToolFailed(problem, remedy="Have it run its part money") from None

    @tool(idempotent=True, effect="read")
    async def spend(
        self,
        context: ToolContext,
        by: Annotated[str, Field(max_length=40)] = "agent",
        since: _Since = "24h",
        until: _Since = "",
        bucket: Literal["", "hour", "day"] = "",
    ) -> dict[str, Any]:
        """Sum up what calls of models cost, the most expensive first, with the share of each in the whole.

        Calls whose cost is not known are counted as unpriced: they did not cost nothing.

        Args:
            by: agent, model, deployment, tag, prompt or task; or two of them, as in agent,model
            since: how far back, such as 24h or 30d, or a time such as 2030-01-31T00:00:00Z
            until: the end, in the same way; empty is now
            bucket: hour or day for a series over time
        """
        return await self._costs(context, by, since, until, bucket, _MAX_ITEMS)

    @tool(idempotent=True, effect="read")
    async def tasks_by_cost(
        self, context: ToolContext, since: _Since = "24h", limit: _Count = 20
    ) -> dict[str, Any]:
        """List the tasks whose calls of models cost the most, with what such tasks usually cost.

        Args:
            since: how far back, such as 24h or 30d
            limit: how many
        """
        return await self._costs(context, "task,agent", since, "", "", limit)

    @tool(idempotent=True, effect="read")
    async def budgets(self, context: ToolContext) -> list[dict[str, Any]]:
        """List the budgets with their limit, what each has spent and reserved, and when it renews."""
        return [
            {**budget, "share": _share(budget["spent_usd"], Decimal(budget["limit_usd"]))}
            for budget in await self.money.budgets(context.task)
        ]

    @tool(idempotent=True, effect="read")
    async def estimate(
        self, agent: Annotated[str, Field(min_length=1, max_length=64)], context: ToolContext
    ) -> dict[str, Any]:
        """Tell what the last tasks of an agent cost: the median, and what nine of ten did not exceed.

        Args:
            agent: its id
        """
        return await self.money.estimate(context.task, agent)

    @tool(idempotent=True, effect="read")
    async def prices(
        self, context: ToolContext, model: Annotated[str, Field(max_length=200)] = ""
    ) -> list[dict[str, Any]]:
        """List the prices of models, in dollars per million tokens; none where a price is not known.

        Args:
            model: only those with this in the name of the model or its group
        """
        prices = await self.money.prices(context.task)
        return [price for price in prices if model in price["model"] or model in price["group"]]

    @tool(idempotent=True, effect="read")
    async def litellm_spend(
        self, context: ToolContext, by: Literal["agent", "tag"] = "tag", since: _Since = ""
    ) -> dict[str, str]:
        """Tell what a LiteLLM proxy has counted, in dollars, for all of its callers.

        Args:
            by: tag, for all time, or agent
            since: the first day, such as 7d; for agents alone
        """
        if not self.config.litellm_tenant or context.task.tenant_id != self.config.litellm_tenant:
            remedy = "Only a person can set litellm_tenant in [tools.money] of mesh.toml"
            raise ToolFailed("The LiteLLM proxy may not be read for this tenant", remedy=remedy)
        return await self.money.litellm_spend(context.task, by, since or None)

    async def _costs(
        self, context: ToolContext, by: str, since: str, until: str, bucket: str, limit: int
    ) -> dict[str, Any]:
        chosen: _Bucket | None = "hour" if bucket == "hour" else "day" if bucket == "day" else None
        report = await self.money.spend(context.task, by, since or None, until or None, chosen)
        items = report.pop("items", [])
        whole = Decimal(report["total"].get("cost_usd") or 0)
        rows = [{**item, "share": _share(item.get("cost_usd"), whole)} for item in items[:limit]]
        return {**report, "items": rows, "omitted": report.get("omitted", 0) + len(items) - len(rows)}


class MoneyTools(MoneyReadTools):
    """Reads money, and sets allowances with approval."""

    @tool(idempotent=True, effect="change", needs_approval=True, preview="_preview_allowance")
    async def set_allowance(
        self,
        whose: Annotated[str, Field(min_length=1, max_length=200)],
        amount: Annotated[str, Field(min_length=1, max_length=40)],
        context: ToolContext,
        on_empty: OnEmpty = "fail",
    ) -> dict[str, Any]:
        """Allow an agent or a tag an amount of dollars in a window; another of that window is replaced.

        Args:
            whose: an agent's id, or tag:NAME, or mesh for all calls of the tenant
            amount: dollars and window, such as 5/day, 100/month
            on_empty: what tasks do when it is used up: fail, wait until it renews, or ask a person
        """
        money = self.money
        return await money.set_allowance(context.task, context.agent_id, whose, amount, on_empty)

    async def _preview_allowance(
        self, whose: str, amount: str, context: ToolContext, on_empty: OnEmpty = "fail"
    ) -> dict[str, Any] | Unchanged:
        allowances = await self.money.allowances(context.task)
        now = [allowance for allowance in allowances if allowance.get("of") == whose.rpartition(":")[2]]
        effect = {"allows": whose, "amount": amount, "on_empty": on_empty, "now": now}
        is_set = any(_allows(allowance, whose, amount, on_empty) for allowance in now)
        return Unchanged(effect) if is_set else effect


def _allows(allowance: Mapping[str, Any], whose: str, amount: str, on_empty: str) -> bool:
    """Whether an allowance is the one that would be set; an amount in other words counts as another."""
    scope = "mesh" if whose == "mesh" else whose.rpartition(":")[0] or "agent"
    dollars, _, window = amount.partition("/")
    is_same = allowance.get("window") == (window or "day") and allowance.get("on_empty") == on_empty
    try:
        limit = Decimal(dollars)
    except InvalidOperation:
        return False
    return is_same and allowance.get("scope") == scope and Decimal(allowance["limit_usd"]) == limit


def _share(part: Decimal | str | None, whole: Decimal) -> str | None:
    """A share in percent, as text; None where it is not known."""
    return None if part is None or not whole else f"{100 * Decimal(part) / whole:.1f}%"

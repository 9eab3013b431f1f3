"""The routes of money, and the toolset `money`, which asks the operations that every caller asks."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from typing import Any

from msgspec.structs import fields
from pydantic_core import from_json

from meshwright import Task, ToolFailed
from meshwright.agents.component import agents_here
from meshwright.agents.prompts import PromptSources
from meshwright.component import Caller, Component, Mesh
from meshwright.core.encoding import write_struct
from meshwright.core.errors import in_one_line
from meshwright.core.money import OnEmpty
from meshwright.kit import Role, View
from meshwright.mesh.components import Check
from meshwright.models.overview import Deployments
from meshwright.models.port import PriceList
from meshwright.models.settings import ModelsSettings
from meshwright.money.budgets import Budgets
from meshwright.money.costs import Bucket, parse_since
from meshwright.money.proxy import FIRST_DAY, make_proxy
from meshwright.parts.money.first_calls import FirstCalls
from meshwright.parts.money.operations import MoneyOperations
from meshwright.toolsets.money import Money


class TaskMoney(Component):
    """Answers runs with the rights of a viewer of their task's tenant; allowances with an operator's."""

    name = "money"
    operations = MoneyOperations, "costs"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        mesh.provide(self, Money)

    def checks(self) -> Iterable[Check]:
        """Whether hard budgets let the agents' first calls through."""
        return [Check("budgets", first_calls.check)] if (first_calls := self._first_calls()) else []

    def warnings(self) -> Iterable[str]:
        """Warns about hard budgets that refuse every call of an agent."""
        refusals = first_calls.refusals() if (first_calls := self._first_calls()) else []
        return [in_one_line(refusal.message, refusal.remedy) for refusal in refusals]

    def _first_calls(self) -> FirstCalls | None:
        mesh = self.mesh
        budgets = [budget for budget in mesh.get(Budgets).declared if budget.hard]
        if not budgets:
            return None
        return FirstCalls(budgets, agents_here(mesh), mesh.get(PromptSources), mesh.get(PriceList))

    async def spend(
        self, task: Task, by: str, since: str | None, until: str | None, bucket: Bucket | None
    ) -> dict[str, Any]:
        """The costs of calls of models, as `GET /costs` has them. Raises what its operation raises."""
        operations = MoneyOperations(self.mesh, self._viewer(task))
        costs = await operations.costs(by, since=since, until=until, bucket=bucket)
        items = [_without_defaults(cost) for cost in costs.items]
        document = {**_without_defaults(costs), "items": items, "total": _without_defaults(costs.total)}
        return from_json(write_struct(document))

    async def budgets(self, task: Task) -> list[dict[str, Any]]:
        """The budgets of the task's tenant, with what each has spent and holds."""
        budgets = await MoneyOperations(self.mesh, self._viewer(task)).budgets()
        return [view.model_dump(mode="json") for view in budgets.items]

    async def estimate(self, task: Task, agent_id: str) -> dict[str, Any]:
        """The cost of an agent's last tasks."""
        estimate = await MoneyOperations(self.mesh, self._viewer(task)).estimate(agent_id=agent_id)
        values = estimate.model_dump(mode="json")
        return {name: value for name, value in values.items() if value is not None}

    async def prices(self, task: Task) -> list[dict[str, Any]]:
        """The prices of each group of models; no names of deployments, no settings."""
        groups = (await self.mesh.get(Deployments).overview())["groups"]
        return [
            {"group": group["group"], "model": deployment["model"], "price": deployment["price"]}
            for group in groups
            for deployment in group["deployments"]
        ]

    async def litellm_spend(self, task: Task, by: str, since: str | None) -> dict[str, str]:
        """The spend that the LiteLLM proxy of the settings has counted, by agent or by tag."""
        models = self.mesh.settings[ModelsSettings]
        key = models.api_key.get_secret_value() if models.api_key else None
        proxy = make_proxy(models.base_url, key)
        if by == "tag":
            spent = await proxy.spend_by_tag()
        else:
            now = self.mesh.runtime.clock.now()
            first = parse_since(since, now, field="since").astimezone(UTC).date() if since else FIRST_DAY
            spent = await proxy.spend_by_agent(first, now.date())
        return {name or "(none)": f"{cost:f}" for name, cost in spent.items()}

    async def allowances(self, task: Task) -> list[dict[str, Any]]:
        """The allowances that were set while the mesh runs."""
        operations = MoneyOperations(self.mesh, _caller(task, task.requested_by, Role.OPERATOR))
        allowances = (await operations.allowances()).items
        return [allowance.model_dump(mode="json", exclude_none=True) for allowance in allowances]

    async def set_allowance(
        self, task: Task, agent_id: str, whose: str, allowance: str, on_empty: OnEmpty
    ) -> dict[str, Any]:
        """Set an allowance of the tenant. The audit trail has the agent, and who approved.

        Raises what `MoneyOperations.allow` raises.
        """
        operations = MoneyOperations(self.mesh, _caller(task, agent_id, Role.OPERATOR))
        budget = await operations.allow(whose, allowance, on_empty=on_empty)
        return budget.model_dump(mode="json", exclude_none=True)

    def _viewer(self, task: Task) -> Caller:
        if not self.mesh.has_log:
            remedy = "Set reads_log = True in the class of the agent, whose tasks run at the front then"
            raise ToolFailed("This worker has no event log to read", remedy=remedy)
        return _caller(task, task.requested_by, Role.VIEWER)


def _without_defaults(view: View) -> dict[str, Any]:
    values = {field.name: (getattr(view, field.name), field.default) for field in fields(view)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _caller(task: Task, name: str, role: Role) -> Caller:
    """A caller of the task's tenant alone."""
    return Caller(tenant_id=task.tenant_id, requested_by=name, source="run", roles=frozenset({role}))

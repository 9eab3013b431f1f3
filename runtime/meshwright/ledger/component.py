"""The component of budgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import ClassVar

from meshwright.agent import AgentTypes
from meshwright.component import Actors, Component
from meshwright.events.projections import Projection
from meshwright.kernel.turns import ActorKind
from meshwright.ledger.account import ACCOUNT, BudgetAccount
from meshwright.ledger.accounting import Accounted, call_events
from meshwright.ledger.allowances import ALLOWANCES, AllowanceKeeper, Allowances
from meshwright.ledger.budgets import Budgets
from meshwright.ledger.costs import CallProjection, last_answered
from meshwright.mesh import Mesh
from meshwright.models.port import Model, ModelWrapper, PriceList
from meshwright.parts import ORCHESTRATION


class LedgerComponent(Component):
    """Budgets, of the settings and of agents, each with its account."""

    name = "ledger"
    facts: ClassVar[Mapping[str, str]] = {
        "budget.*": "budget scope key limit limit_usd spent window amount_usd",
        "allowance.*": "name scope of limit_usd window on_empty",
    }

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        of_agents = (budget for agent in mesh.get(AgentTypes) for budget in agent.budgets)
        allowances = mesh.provide(Allowances(mesh.host))
        declared = [*mesh.settings.ledger.budgets, *of_agents]
        mesh.provide(Budgets(declared, mesh.host, allowances))

    def model_wrappers(self) -> Iterable[ModelWrapper]:
        """Keeps calls within the budgets, and records each.

        Each form that a request is adapted to is a call; an answer from the cache is one that costs nothing.
        """
        return [ModelWrapper("ledger", self._accounted)]

    def _accounted(self, model: Model) -> Model:
        mesh = self.mesh
        past = partial(mesh.log.view, last_answered) if mesh.has_log else None
        return Accounted(model, mesh.get(Budgets), mesh.get(PriceList), call_events(mesh.host), past)

    def projections(self) -> Iterable[Projection]:
        """The calls of models and their costs."""
        return [CallProjection()]

    def actors(self) -> Iterable[Actors]:
        """The accounts, and the allowances."""
        kinds = ActorKind.of(BudgetAccount, type=ACCOUNT), ActorKind.of(AllowanceKeeper, type=ALLOWANCES)
        return [Actors(kind, ORCHESTRATION) for kind in kinds]

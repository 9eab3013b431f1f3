"""The component of budgets, which account for every call of a model.

A call reserves what it may cost, settles what it did cost, and is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from meshwright.agents.agent import AgentTypes
from meshwright.engine.events.projections import Projection
from meshwright.engine.kernel.turns import ActorKind
from meshwright.mesh.components import Actors, Component, Pages
from meshwright.mesh.mesh import ORCHESTRATION, Mesh
from meshwright.models.port import Model, ModelWrapper, PriceList
from meshwright.money.account import ACCOUNT, BudgetAccount
from meshwright.money.accounting import Accounting, call_events
from meshwright.money.allowances import ALLOWANCES, AllowanceKeeper, Allowances
from meshwright.money.budgets import Budgets
from meshwright.money.costs import CallProjection, last_answered
from meshwright.money.settings import LedgerSettings


class LedgerComponent(Component):
    """Budgets, of the settings and of agents, each with its account."""

    name = "ledger"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        of_agents = (budget for agent in mesh.get(AgentTypes) for budget in agent.budgets)
        allowances = mesh.provide(Allowances(mesh.runtime))
        budgets = Budgets([*mesh.settings[LedgerSettings].budgets, *of_agents], mesh.runtime, allowances)
        mesh.provide(budgets)

    def model_wrappers(self) -> Iterable[ModelWrapper]:
        """Keeps calls within the budgets, and records each.

        Each form that a request is adapted to is a call; an answer from the cache is one that costs nothing.
        """
        return [ModelWrapper("ledger", self._accounted)]

    def _accounted(self, model: Model) -> Model:
        mesh = self.mesh
        past = partial(mesh.log.view, last_answered) if mesh.has_log else None
        return Accounting(model, mesh.get(Budgets), mesh.get(PriceList), call_events(mesh.runtime), past)

    def projections(self) -> Iterable[Projection]:
        """The calls of models and their costs."""
        return [CallProjection()]

    def pages(self) -> Iterable[Pages]:
        """Its view of the page."""
        return [Pages("/ui/money", self.folder("web"), view="Money", place=10, group="Insight")]

    def actors(self) -> Iterable[Actors]:
        """The accounts, and the allowances."""
        kinds = (
            ActorKind.from_class(BudgetAccount, type=ACCOUNT),
            ActorKind.from_class(AllowanceKeeper, type=ALLOWANCES),
        )
        return [Actors(kind, ORCHESTRATION) for kind in kinds]

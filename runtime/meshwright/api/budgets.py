"""Budgets: how much may be spent, by whom, and how much is."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from meshwright.api.callers import identity_of
from meshwright.api.examples import Example
from meshwright.api.openapi import answers
from meshwright.api.wire import answer
from meshwright.ledger.budgets import BudgetView
from meshwright.mesh import Mesh

BUDGET: Example = {
    "budget": "each-agent",
    "scope": "agent",
    "key": "researcher-agent",
    "window": "day",
    "hard": True,
    "limit_usd": "5",
    "spent_usd": "1.0275",
    "reserved_usd": "0.0614",
    "renews_at": "2030-01-02T00:00:00Z",
}
BUDGETS: Example = {"items": [BUDGET]}


class BudgetList(BaseModel):
    """Budgets, each with whose it is."""

    items: list[BudgetView]


class BudgetRoutes:
    """The budgets over HTTP."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.add_api_route(
            "/budgets",
            self.list,
            summary="List budgets",
            tags=["costs"],
            responses=answers(BudgetList, BUDGETS),
        )

    async def list(self, request: Request) -> Response:
        """Show what each budget may spend, has spent and holds for calls under way, and when it renews.

        A budget that each of a scope has for itself is shown for the last 1,000 of whom a call was made.
        """
        views = await self._mesh.budgets.views(self._mesh.log, identity_of(request).spender)
        return answer(BudgetList(items=views))

"""Costs: what calls of models came to, by who or what they were for."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from meshwright.api.callers import identity_of
from meshwright.api.examples import Example
from meshwright.api.openapi import answers, problems
from meshwright.api.wire import answer
from meshwright.ledger.costs import By, Costs, since_of
from meshwright.mesh import Mesh

COST: Example = {
    "key": "researcher-agent",
    "calls": 12,
    "failed": 1,
    "cache_hits": 2,
    "prompt_tokens": 7344,
    "cached_tokens": 1024,
    "completion_tokens": 480,
    "cost_usd": "0.0013896",
    "estimated_usd": "0",
    "unpriced": 0,
    "saved_usd": "0.0002316",
}
COSTS: Example = {
    "by": "agent",
    "since": "2030-01-01T00:00:00Z",
    "items": [COST],
    "omitted": 0,
    "total": {**COST, "key": None},
}


class CostQuery(BaseModel):
    """What to sum by, and from when: `24h` ago (s, m, h, d or w), or RFC 3339."""

    model_config = ConfigDict(extra="forbid")

    by: By = "agent"
    since: str | None = Field(default=None, min_length=1, max_length=40)


class CostRoutes:
    """The ledger over HTTP."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.add_api_route(
            "/costs",
            self.show,
            summary="Sum up what models cost",
            tags=["costs"],
            responses={**answers(Costs, COSTS), **problems({422: "`since` is not a time, or `by` nothing."})},
        )

    async def show(self, request: Request, query: Annotated[CostQuery, Query()]) -> Response:
        """Sum up what calls of models have cost, most expensive first, and all of them together.

        `cost_usd` is what is known of it, `estimated_usd` how much of that is of tokens that were estimated;
        `unpriced` counts the calls whose cost nobody knows.
        The holder of a key sees the calls of the key's tenant, the administrator those of all.
        """
        since = None if query.since is None else since_of(query.since, self._mesh.host.clock.now())
        tenant_id = identity_of(request).spender
        return answer(await self._mesh.costs(query.by, since=since, tenant_id=tenant_id))

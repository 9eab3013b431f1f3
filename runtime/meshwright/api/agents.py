"""Agents: who is there, and how well each suits a capability."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Response
from pydantic import BaseModel

from meshwright.api.examples import AGENTS, SCORES
from meshwright.api.openapi import answers, problems
from meshwright.api.wire import answer
from meshwright.capability import AgentInfo
from meshwright.errors import NotFound
from meshwright.mesh import Mesh
from meshwright.messages import ID_PATTERN, ScoreCard


class AgentList(BaseModel):
    """Agents by name."""

    items: list[AgentInfo]


class ScoreList(BaseModel):
    """Score cards, the best first."""

    items: list[ScoreCard]


class AgentRoutes:
    """The registry over HTTP."""

    def __init__(self, mesh: Mesh) -> None:
        self._registry = mesh.registry

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.add_api_route(
            "/agents",
            self.list,
            summary="List agents",
            tags=["agents"],
            responses=answers(AgentList, AGENTS),
        )
        app.add_api_route(
            "/agents/score/{capability}",
            self.scores,
            summary="Score agents for a capability",
            tags=["agents"],
            responses={**answers(ScoreList, SCORES), **problems({404: "No agent has that capability."})},
        )

    async def list(self) -> Response:
        """Show every agent that is registered, and how it is doing."""
        return answer(AgentList(items=self._registry.agents()))

    async def scores(self, capability: Annotated[str, Path(pattern=ID_PATTERN)]) -> Response:
        """Show how the agents that are not offline score for a capability, factor by factor, best first."""
        known = self._registry.capabilities()
        if capability not in known:
            raise NotFound(
                f"no agent has the capability {capability!r}",
                remedy=f"known are {', '.join(known) or 'none: no agent is registered'}",
                field="capability",
            )
        return answer(ScoreList(items=self._registry.scores(capability)))

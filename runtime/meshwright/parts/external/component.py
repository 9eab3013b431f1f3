"""The component of external agents: the agents that its tables make, and the routes of their programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from meshwright import Agent
from meshwright.component import Component, Settings
from meshwright.kit import BoundAgents
from meshwright.parts.external.settings import ExternalSettings

if TYPE_CHECKING:
    from fastapi import APIRouter

    from meshwright.parts.external.runs import ExternalRuns


class ExternalComponent(Component):
    """Makes an agent of each table, and lets programs claim the runs of these."""

    name = "external"
    config: ExternalSettings

    @classmethod
    def agents(cls, settings: Settings) -> Iterable[type[Agent]]:
        """An agent for each table."""
        tables: ExternalSettings = settings.table("external")
        if not tables:
            return ()
        from meshwright.parts.external.agent import make_agent

        return [make_agent(name, table) for name, table in tables.items()]

    def routes(self) -> APIRouter:
        """`/external`."""
        from meshwright.kit import make_routes
        from meshwright.parts.external.operations import ExternalOperations

        return make_routes(ExternalOperations, "external")

    def runs(self) -> dict[str, ExternalRuns]:
        """The runs of each agent of a table in this process."""
        from meshwright.parts.external.agent import ExternalAgent

        agents = (bound.agent for bound in self.mesh.get(BoundAgents).values())
        return {agent.agent_id: agent.runs for agent in agents if isinstance(agent, ExternalAgent)}

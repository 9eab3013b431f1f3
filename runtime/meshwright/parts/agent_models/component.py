"""The component of agents as models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwright.component import Component
from meshwright.parts.agent_models.settings import AgentModelsSettings

if TYPE_CHECKING:
    from fastapi import APIRouter


class AgentModelsComponent(Component):
    """Serves agents as models, where the settings want it."""

    name = "agent_models"
    config: AgentModelsSettings

    def routes(self) -> list[APIRouter]:
        """The routes of stored responses; those of calls are the llm-service's."""
        if not self.config.enabled:
            return []
        from meshwright.parts.agent_models.routes import make_routes

        return [make_routes(self.mesh, self.config)]

"""The component: its table, routes, WebSocket, and the actor by which workers without a database read it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from meshwright.component import Actors, Component
from meshwright.kernel.turns import ActorKind
from meshwright.mesh import Mesh
from meshwright.roles import FRONT
from meshwright.services.agent_config import migrations
from meshwright.services.agent_config.configs import AGENT_CONFIGS, AgentConfigReader, AgentConfigs
from meshwright.sql.encrypted import EncryptedColumn

if TYPE_CHECKING:
    from fastapi import APIRouter

    from meshwright.services.agent_config.websocket import Subscribers


class AgentConfigComponent(Component):
    """Which model each agent calls, changed while the mesh runs."""

    name = "agent_config"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self.configs = AgentConfigs(
            mesh,
            has_table=mesh.has_log,
            ttl_seconds=self.config.ttl_seconds,
            max_agents=self.config.max_agents,
        )
        self._subscribers: Subscribers | None = None
        self.parts.append(self.configs)

    def migrations(self) -> Traversable:
        """The table `agents`, with a default that is not active."""
        return resources.files(migrations)

    def encrypted(self) -> Iterable[EncryptedColumn]:
        """The keys of providers."""
        return [EncryptedColumn("agents", "llm_api_key_encrypted")]

    def actors(self) -> Iterable[Actors]:
        """The actor that reads the table for other workers, at the front."""
        kind = ActorKind.of(AgentConfigReader, type=AGENT_CONFIGS, known=self.configs.known)
        return [Actors(kind, FRONT)]

    def routes(self) -> APIRouter:
        """/api/agents and /ws."""
        from fastapi import APIRouter

        from meshwright.services.agent_config import routes
        from meshwright.services.agent_config.websocket import Subscribers

        if self._subscribers is None:
            self._subscribers = Subscribers(self.mesh, self.config.max_subscribers)
        router = APIRouter()
        router.include_router(routes.router)
        router.include_router(self._subscribers.routes())
        return router

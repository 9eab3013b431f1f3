"""The component of agent configurations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from meshwright.component import Actors, Component, Mesh, Pages
from meshwright.kit import EncryptedColumn
from meshwright.parts.agent_config.operations import AgentConfigs

if TYPE_CHECKING:
    from fastapi import APIRouter


class AgentConfigComponent(Component):
    """Provides the configurations of agents, with their table and routes."""

    name = "agent_config"
    tables = "migrations"
    operations = AgentConfigs, "agent configuration"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._configs = mesh.provide(AgentConfigs(mesh))
        self.parts.append(self._configs)
        self._subscribers: APIRouter | None = None

    def encrypted(self) -> Iterable[EncryptedColumn]:
        """The keys of providers."""
        return [EncryptedColumn("agents", "llm_api_key_encrypted")]

    def actors(self) -> Iterable[Actors]:
        """The reader of the table for other processes, at the front."""
        return self._configs.actors()

    def pages(self) -> Iterable[Pages]:
        """Its view of the page."""
        folder = self.folder("web")
        return [Pages("/ui/configuration", folder, view="Configuration", place=80, group="Settings")]

    def routes(self) -> Sequence[APIRouter]:
        """The keys of agents, and /ws."""
        from meshwright.parts.agent_config.routes import router, subscriber_routes

        if self._subscribers is None:
            self._subscribers = subscriber_routes(self.mesh, self.config.max_subscribers)
        return [router, self._subscribers]

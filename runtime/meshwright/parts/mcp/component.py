"""The component of MCP servers."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.component import Actors, Component, Mesh
from meshwright.kit import ORCHESTRATION, ActorKind
from meshwright.parts.mcp.consent import CONSENT, ConsentActor
from meshwright.parts.mcp.operations import McpOperations
from meshwright.parts.mcp.remote_tasks import RemoteTasks
from meshwright.parts.mcp.sign_in import SIGN_IN, SignInActor, SignIns


class McpComponent(Component):
    """Provides the MCP servers of a mesh, with their routes."""

    name = "mcp"
    operations = McpOperations, "mcp"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._servers = mesh.provide(McpOperations(mesh))
        self._tasks = RemoteTasks(mesh, self._servers.config, mesh.get(SignIns))

    def actors(self) -> Iterable[Actors]:
        """Two actors for each server."""
        kinds = (
            ActorKind.from_class(ConsentActor, type=CONSENT),
            ActorKind.from_class(SignInActor, type=SIGN_IN),
        )
        return [Actors(kind, ORCHESTRATION) for kind in kinds]

    def assemble(self) -> None:
        """List the tools that are withheld in the inbox, and part in new keys."""
        self._servers.assemble()

    async def stop(self) -> None:
        """Cancel no more tasks at servers."""
        await self._tasks.stop()

"""The component of trees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshwright.agents.trees.operations import TreeOperations
from meshwright.mesh.components import Actors, Check, Component
from meshwright.mesh.mesh import Mesh


class TreesComponent(Component):
    """Provides the trees of a mesh, with their routes and actors."""

    name = "trees"
    operations = TreeOperations, "trees"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._trees = mesh.provide(TreeOperations(mesh))

    def actors(self) -> Iterable[Actors]:
        """The newest states of trees, for meshes with several workers."""
        return self._trees.actors()

    def checks(self) -> Iterable[Check]:
        """Whether the repositories that tasks may work on answer."""
        return self._trees.checks()

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Remove the trees of tasks, with all of their history."""
        await self._trees.erase(tenant_id, task_ids)

    async def begin(self) -> None:
        """Remove the trees of tasks that are gone, hourly."""
        await self._trees.begin()

    async def stop(self) -> None:
        """Remove no more."""
        await self._trees.stop()

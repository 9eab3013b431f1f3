"""The component of experiments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from meshwright.component import Component, Mesh, Pages
from meshwright.kit import Projection
from meshwright.parts.experiments.operations import Experiments
from meshwright.parts.experiments.table import ExperimentProjection

if TYPE_CHECKING:
    from fastapi import APIRouter


class ExperimentsComponent(Component):
    """Provides the experiments of a mesh, with their lists and routes."""

    name = "experiments"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._experiments = mesh.provide(Experiments(mesh))
        self.parts = [self._experiments]

    def projections(self) -> Iterable[Projection]:
        """The metrics of tasks."""
        return [ExperimentProjection()]

    def pages(self) -> Iterable[Pages]:
        """Its view of the page."""
        return [Pages("/ui/experiments", self.folder("web"), view="Experiments", place=50, group="Fleet")]

    def routes(self) -> APIRouter:
        """/v1/experiments."""
        from meshwright.kit import make_routes

        return make_routes(Experiments, "experiments", names_tenant=True)

    def assemble(self) -> None:
        """Choose variants for new tasks, and list what guards have stopped in the inbox."""
        self._experiments.assemble()

    async def begin(self) -> None:
        """Guard what runs."""
        await self._experiments.begin()

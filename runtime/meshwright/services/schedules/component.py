"""The component of schedules."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from meshwright.component import Component, Pages
from meshwright.mesh import Mesh
from meshwright.services.schedules.operations import Schedules

if TYPE_CHECKING:
    from fastapi import APIRouter


class SchedulesComponent(Component):
    """Provides the schedules of a mesh, with their table and routes."""

    name = "schedules"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._schedules = mesh.provide(Schedules(mesh))

    def migrations(self) -> Traversable:
        """The table `schedules`."""
        return self.folder("tables")

    def pages(self) -> Iterable[Pages]:
        """Its view of the page."""
        return [Pages("/ui/schedules", self.folder("web"), view="Schedules", place=60)]

    def routes(self) -> APIRouter:
        """`/schedules`."""
        from meshwright.edges.http.operation_routes import make_routes

        return make_routes(Schedules, "schedules")

    async def start(self) -> None:
        """Apply the schedules of the settings."""
        await self._schedules.start()

    async def begin(self) -> None:
        """Run the schedules that are due."""
        await self._schedules.begin()

    async def stop(self) -> None:
        """Run nothing more."""
        await self._schedules.stop()

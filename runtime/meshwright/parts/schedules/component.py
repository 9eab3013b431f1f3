"""The component of schedules."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.component import Component, Mesh, Pages
from meshwright.parts.schedules.operations import Schedules


class SchedulesComponent(Component):
    """Provides the schedules of a mesh, with their table and routes."""

    name = "schedules"
    tables = "tables"
    operations = Schedules, "schedules"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._schedules = mesh.provide(Schedules(mesh))
        self.parts.append(self._schedules)

    def pages(self) -> Iterable[Pages]:
        """Its view of the page."""
        return [Pages("/ui/schedules", self.folder("web"), view="Schedules", place=60, group="Work")]

    async def begin(self) -> None:
        """Run the schedules that are due."""
        await self._schedules.begin()

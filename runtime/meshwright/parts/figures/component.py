"""The component of figures: an operator reads a mesh in numbers, from one reader."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.component import Component, Mesh, Pages
from meshwright.kit import Duty, Projection
from meshwright.parts.figures.operations import FiguresOperations
from meshwright.parts.figures.reader import FiguresReader, Roster
from meshwright.parts.figures.settings import FiguresSettings
from meshwright.parts.figures.sums import AgentProjection


class FiguresComponent(Component):
    """The figures of a mesh: their table, their routes, and what keeps them fresh."""

    name = "figures"
    tables = "tables"
    operations = FiguresOperations, "figures"
    settings = FiguresSettings
    config: FiguresSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        roster = Roster(mesh)
        self._reader = FiguresReader(mesh, roster, self.config.stuck_seconds)
        mesh.provide(FiguresOperations(mesh, self._reader))
        self.parts.append(roster)
        if mesh.role.is_front:
            seconds = self.config.refresh_seconds
            self.parts.append(Duty(mesh.runtime.clock, seconds, self._refresh, "figures"))

    def pages(self) -> Iterable[Pages]:
        """Its views of the page."""
        return [
            Pages("/ui/agents", self.folder("web/agents"), view="Agents", place=10, group="Fleet"),
            Pages("/ui/models", self.folder("web/models"), view="Models", place=11, group="Fleet"),
        ]

    def projections(self) -> Iterable[Projection]:
        """Counts and last attempts of agents."""
        return [AgentProjection()]

    async def start(self) -> None:
        """Say that this worker is there, and keep the figures up to date, and the tables that others read."""
        if self.mesh.role.is_front:
            await self._reader.calls.begin()
        await super().start()

    async def _refresh(self) -> None:
        await self._reader.calls.refresh(self.mesh.runtime.clock.now())

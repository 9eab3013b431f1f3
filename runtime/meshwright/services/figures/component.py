"""The component of figures: an operator reads a mesh in numbers, from one reader."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from meshwright.component import Component
from meshwright.events.projections import Projection
from meshwright.kernel.timers import every
from meshwright.mesh import Mesh
from meshwright.services.figures.operations import FiguresOperations
from meshwright.services.figures.reader import FiguresReader
from meshwright.services.figures.roster import Roster
from meshwright.services.figures.settings import FiguresSettings
from meshwright.services.figures.table import AgentProjection

if TYPE_CHECKING:
    from fastapi import APIRouter


class FiguresComponent(Component):
    """The figures of a mesh: their table, their routes, and what keeps them fresh."""

    name = "figures"
    settings = FiguresSettings
    config: FiguresSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        roster = Roster(mesh)
        self._reader = FiguresReader(mesh, roster, self.config.stuck_seconds)
        mesh.provide(FiguresOperations(mesh, self._reader))
        self._refreshing: asyncio.Task[None] | None = None
        self.parts.append(roster)

    def migrations(self) -> Traversable:
        """The table `agent_figures`, and on PostgreSQL the view `meshwright_scale`."""
        return self.folder("tables")

    def projections(self) -> Iterable[Projection]:
        """Counts and last attempts of agents."""
        return [AgentProjection()]

    def routes(self) -> APIRouter:
        """`/figures`, `/metrics` and `/scale/{app}`."""
        from meshwright.edges.http.operation_routes import make_routes

        return make_routes(FiguresOperations, "figures")

    async def start(self) -> None:
        """Say that this worker is there, and keep the figures up to date, and the tables that others read."""
        await super().start()
        if self.mesh.role.is_front:
            await self._reader.calls.begin()
            refresh, seconds = self._refresh, self.config.refresh_seconds
            self._refreshing = asyncio.create_task(
                every(self.mesh.runtime.clock, seconds, refresh), name="figures"
            )

    async def _refresh(self) -> None:
        await self._reader.calls.refresh(self.mesh.runtime.clock.now())

    async def stop(self) -> None:
        """Say no more."""
        refreshing, self._refreshing = self._refreshing, None
        if refreshing is not None:
            refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await refreshing
        await super().stop()

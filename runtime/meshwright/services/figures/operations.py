"""The operations on figures, with the role of each."""

from __future__ import annotations

from meshwright.component import Component
from meshwright.core.access import Role
from meshwright.core.ids import Identifier
from meshwright.core.messages import Caller
from meshwright.core.operations import Rule, operation, visible_tenant
from meshwright.mesh import Mesh
from meshwright.models.overview import Deployments
from meshwright.models.port import Model
from meshwright.services.figures.metrics import CONTENT_TYPE, metrics_text
from meshwright.services.figures.reader import FiguresReader
from meshwright.services.figures.records import Figures, Scale

_SEE = Rule("sees figures", (Role.VIEWER,))


class FiguresOperations:
    """The operations on figures. Each raises StoreFailed."""

    def __init__(self, mesh: Mesh, reader: FiguresReader) -> None:
        self._mesh = mesh
        self._reader = reader

    @operation(_SEE, "GET /figures", "Show figures", name="show_figures")
    async def show(self, caller: Caller) -> Figures:
        """Show agents, workers, models, what is parked, stuck or dead, and the disk, as they are now.

        The holder of a key sees the tasks of the key's tenant, the administrator all of it.
        """
        return await self._reader.figures(visible_tenant(caller))

    @operation(
        Rule("reads metrics", (Role.VIEWER,), all_tenants=True),
        "GET /metrics",
        "Scrape metrics",
        name="scrape",
        response="The text format of Prometheus.",
        text=CONTENT_TYPE,
    )
    async def metrics(self, caller: Caller) -> str:
        """Give the figures of the whole mesh in the text format of Prometheus.

        A scraper elsewhere sends a key: `mesh keys create --name prometheus --tenant '*' --role viewer`.
        """
        figures, counts = await self._reader.with_counts(None)
        parts = [part for part in self._mesh.components if isinstance(part, Component)]
        others = [(part.name, figure) for part in parts for figure in part.figures()]
        return metrics_text(figures, counts, self._reader.calls, self._providers(), others)

    @operation(
        _SEE,
        "GET /scale/{app}",
        "Show an agent's work, for autoscalers",
        name="show_scale",
        errors={404: "There is no such agent."},
    )
    async def scale(self, caller: Caller, app: Identifier) -> Scale:
        """Count the tasks of an agent, or of all (`mesh`), that wait for a slot or run, for an autoscaler."""
        return await self._reader.scale(app, visible_tenant(caller))

    def _providers(self) -> dict[str, str]:
        return self._mesh.get(Deployments).providers() or {"": self._mesh.get(Model).name}

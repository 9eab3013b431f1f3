"""The operations on figures, with the role of each."""

from __future__ import annotations

from meshwright.component import Component
from meshwright.core.access import Role
from meshwright.core.messages import Caller
from meshwright.identity.rules import Rule, visible_tenant
from meshwright.mesh import Mesh
from meshwright.models.overview import Deployments
from meshwright.models.port import Model
from meshwright.services.figures.metrics import metrics_text
from meshwright.services.figures.reader import FiguresReader
from meshwright.services.figures.records import Figures, Scale

SEE = Rule("sees figures", (Role.VIEWER,))
SCRAPE = Rule("reads metrics", (Role.VIEWER,), all_tenants=True)


class FiguresOperations:
    """The operations on figures. Each raises the errors of its rule, and StoreFailed."""

    def __init__(self, mesh: Mesh, reader: FiguresReader) -> None:
        self._mesh = mesh
        self._reader = reader

    async def show(self, caller: Caller) -> Figures:
        """The figures of the caller's tenant; of the whole mesh for a caller of all tenants."""
        SEE.check(caller)
        return await self._reader.figures(visible_tenant(caller))

    async def scale(self, caller: Caller, app: str) -> Scale:
        """How many tasks of an app wait for a slot or run. Raises NotFound."""
        SEE.check(caller)
        return await self._reader.scale(app, visible_tenant(caller))

    async def metrics(self, caller: Caller) -> str:
        """The figures of the whole mesh, and those of components, in the text format of Prometheus."""
        SCRAPE.check(caller)
        figures, counts = await self._reader.with_counts(None)
        parts = [part for part in self._mesh.components if isinstance(part, Component)]
        others = [(part.name, figure) for part in parts for figure in part.figures()]
        return metrics_text(figures, counts, self._reader.calls, self._providers(), others)

    def _providers(self) -> dict[str, str]:
        return self._mesh.get(Deployments).providers() or {"": self._mesh.get(Model).name}

"""The component of sources of tasks."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.edges.sources.operations import Sources
from meshwright.mesh.components import Component, Pages
from meshwright.mesh.mesh import Mesh


class SourcesComponent(Component):
    """Provides the list of webhooks and channels, with its routes."""

    name = "sources"
    operations = Sources, "sources"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._sources = mesh.provide(Sources(mesh))

    def pages(self) -> Iterable[Pages]:
        """Its view of the page."""
        return [Pages("/ui/deliveries", self.folder("web"), view="Deliveries", place=70, group="Work")]

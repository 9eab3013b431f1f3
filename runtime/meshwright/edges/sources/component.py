"""The component of sources of tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from meshwright.component import Component, Pages
from meshwright.edges.sources.operations import Sources
from meshwright.mesh import Mesh

if TYPE_CHECKING:
    from fastapi import APIRouter


class SourcesComponent(Component):
    """Provides the list of webhooks and channels, with its routes."""

    name = "sources"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._sources = mesh.provide(Sources(mesh))

    def pages(self) -> Iterable[Pages]:
        """Its view of the page."""
        return [Pages("/ui/deliveries", self.folder("web"), view="Deliveries", place=70)]

    def routes(self) -> APIRouter:
        """`/webhooks` and `/channels`."""
        from meshwright.edges.http.operation_routes import make_routes

        return make_routes(Sources, "sources")

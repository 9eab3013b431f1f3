"""The component of sources of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwright.component import Component
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

    def routes(self) -> APIRouter:
        """`/webhooks` and `/channels`."""
        from meshwright.edges.sources.routes import router

        return router

"""The component of the prompt registry."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from meshwright.component import Actors, Component, Pages
from meshwright.mesh import Mesh
from meshwright.services.llmops.operations import PromptRegistry

if TYPE_CHECKING:
    from fastapi import APIRouter


class RegistryComponent(Component):
    """Provides the registered prompts of a mesh, with their tables and routes."""

    name = "llmops"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._registry = mesh.provide(PromptRegistry(mesh))

    def migrations(self) -> Traversable:
        """The tables `prompts`, `prompt_versions` and `prompt_labels`."""
        return self.folder("tables")

    def actors(self) -> Iterable[Actors]:
        """Those by which other processes read the tables, at the front."""
        return self._registry.actors()

    def prompt_source(self) -> PromptRegistry:
        """The live versions. They are asked for before the prompts folder."""
        return self._registry.prompt_source()

    def pages(self) -> Iterable[Pages]:
        """Its view of the page."""
        return [Pages("/ui/prompts", self.folder("web"), view="Prompts", place=40)]

    def routes(self) -> APIRouter:
        """/v1/prompts."""
        from meshwright.services.llmops.routes import router

        return router

    async def start(self) -> None:
        """Read them, and again after each change."""
        await self._registry.start()

    async def stop(self) -> None:
        """Stop reading."""
        await self._registry.stop()

"""The component of the prompt registry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from meshwright.component import Actors, Component, Mesh, Pages
from meshwright.parts.llmops.operations import PromptRegistry

if TYPE_CHECKING:
    from fastapi import APIRouter


class RegistryComponent(Component):
    """Provides the registered prompts of a mesh, with their tables and routes."""

    name = "llmops"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._registry = mesh.provide(PromptRegistry(mesh))
        self.parts = [self._registry]

    def migrations(self) -> Traversable:
        """The tables `prompts`, `prompt_versions` and `prompt_labels`."""
        return self.folder("tables")

    def actors(self) -> Iterable[Actors]:
        """Those by which other processes read the tables, at the front."""
        return self._registry.actors()

    def prompt_source(self) -> PromptRegistry:
        """The live versions. They are asked for before the prompts folder."""
        return self._registry

    def pages(self) -> Iterable[Pages]:
        """Its view of the page."""
        return [Pages("/ui/prompts", self.folder("web"), view="Prompts", place=40, group="Fleet")]

    def routes(self) -> Sequence[APIRouter]:
        """/v1/prompts."""
        from meshwright.kit import make_routes
        from meshwright.parts.llmops.routes import router

        return [make_routes(PromptRegistry, "prompts", names_tenant=True), router]

"""The component of memories."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.component import Component, Mesh, Pages
from meshwright.kit import Role
from meshwright.parts.memories.operations import Memories


class MemoriesComponent(Component):
    """Provides the memories of agents to people, with their routes."""

    name = "memories"
    operations = Memories, "memories"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._memories = mesh.provide(Memories(mesh))

    def pages(self) -> Iterable[Pages]:
        """Its view of the page."""
        return [
            Pages(
                "/ui/memory",
                self.folder("web"),
                view="Memory",
                place=30,
                group="Fleet",
                roles=[Role.CONTENTS],
            )
        ]

    def assemble(self) -> None:
        """List what is in quarantine in the inbox."""
        self._memories.assemble()

    async def begin(self) -> None:
        """Begin to delete what was forgotten."""
        await self._memories.begin()

    async def stop(self) -> None:
        """Delete no more."""
        await self._memories.stop()

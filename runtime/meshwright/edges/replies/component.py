"""The component of replies."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources.abc import Traversable

from meshwright.edges.replies import table
from meshwright.edges.replies.courier import Courier
from meshwright.mesh.components import Component
from meshwright.mesh.mesh import Mesh


class RepliesComponent(Component):
    """Provides the courier, with its tables."""

    name = "replies"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._courier = mesh.provide(Courier(mesh))

    def migrations(self) -> Traversable:
        """The tables of replies, beside the event log."""
        return self.folder("tables")

    async def start(self) -> None:
        """Note the position of each sender."""
        await self._courier.start()

    async def begin(self) -> None:
        """Send outcomes."""
        await self._courier.begin()

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Erase the addresses that outcomes of tasks were sent to: URLs, and numbers of telephones."""
        await self.mesh.database.write(table.erase, tenant_id, task_ids)

    async def stop(self) -> None:
        """Send no more."""
        await self._courier.stop()

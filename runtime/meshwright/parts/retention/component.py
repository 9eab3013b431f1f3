"""The component of retention."""

from __future__ import annotations

from meshwright.component import Component, Mesh
from meshwright.kit import Worker
from meshwright.parts.retention.operations import Retention
from meshwright.parts.retention.settings import RetentionSettings


class RetentionComponent(Component):
    """Prunes old tasks and their records, where the settings say after how many days."""

    name = "retention"
    tables = "tables"
    operations = Retention, "administration"
    config: RetentionSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._retention = mesh.provide(Retention(mesh, self.config))

    async def begin(self) -> None:
        """Begin to prune, but in the process of a command."""
        if self.mesh.role.is_front and not self.mesh.get(Worker).is_drained:
            await self._retention.start()

    async def stop(self) -> None:
        """Prune no more."""
        await self._retention.stop()

"""The component of maintenance: a restored mesh begins no work before it is released."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwright.component import Component
from meshwright.core.messages import Caller
from meshwright.events.audit import Audit
from meshwright.mesh import Mesh
from meshwright.services.maintenance.event_words import FACTS
from meshwright.services.maintenance.operations import Maintenance
from meshwright.services.maintenance.settings import MaintenanceSettings
from meshwright.sql.meta import HELD, delete_note, read_note

if TYPE_CHECKING:
    from fastapi import APIRouter

_SETTINGS = Caller(requested_by="mesh up", source="settings")


class MaintenanceComponent(Component):
    """Backups that were restored, draining, and verification of the whole store."""

    name = "maintenance"
    config: MaintenanceSettings
    facts = FACTS

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        mesh.provide(Maintenance(mesh))

    def routes(self) -> APIRouter:
        """`/drain`, `/release` and `/store/verify`."""
        from meshwright.services.maintenance.routes import router

        return router

    async def start(self) -> None:
        """Hold the work of a restored store, or where the settings say so."""
        mesh = self.mesh
        if not mesh.role.is_front:
            return  # no caller could release it
        note = await mesh.database.read(read_note, HELD)
        if self.config.hold or (note is not None and self.config.hold is None):
            mesh.state = "held"
            mesh.tell("mesh.held", note or {})
        elif note is not None:
            async with mesh.get(Audit).change(_SETTINGS, "mesh.released", "mesh", note):
                await mesh.database.write(delete_note, HELD)

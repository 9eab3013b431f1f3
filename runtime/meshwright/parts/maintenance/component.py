"""The component of maintenance: a mesh that is held, or whose store was restored, begins no work."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from meshwright.component import Actors, Caller, Component, Mesh
from meshwright.core.logs import MESH_LOGGER
from meshwright.engine.sql.meta import HELD, read_note
from meshwright.kit import FRONT, ActorKind, Duty, Role
from meshwright.parts.maintenance.event_types import MeshHeld
from meshwright.parts.maintenance.operations import Maintenance, MeshHold, ProcessHold
from meshwright.parts.maintenance.settings import MaintenanceSettings

if TYPE_CHECKING:
    from fastapi import APIRouter

_logger = logging.getLogger(MESH_LOGGER)
_SETTINGS = Caller(
    requested_by="mesh up", source="settings", roles=frozenset({Role.OPERATOR}), all_tenants=True
)
_LOOK_SECONDS = 2.0  # in which a hold or a release reaches the other processes of a mesh


class MaintenanceComponent(Component):
    """Backups that were restored, holding and draining, and verification of the whole store."""

    name = "maintenance"
    config: MaintenanceSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._hold = ProcessHold(mesh)
        self._following = Duty(mesh.runtime.clock, _LOOK_SECONDS, self._follow)
        mesh.provide(Maintenance(mesh, self._hold))

    def actors(self) -> Iterable[Actors]:
        """The hold of the mesh."""
        yield Actors(ActorKind.from_class(MeshHold), FRONT)

    def routes(self) -> APIRouter:
        """`/drain`, `/hold`, `/release` and `/store/verify`."""
        from meshwright.kit import make_routes

        return make_routes(Maintenance, "administration")

    async def start(self) -> None:
        """Hold the work of a mesh that is held, of a restored store, or where the settings say so."""
        mesh = self.mesh
        note = await self._apply_settings() if mesh.role.is_front else None
        if not mesh.role.is_front:
            await self._follow()
        elif await self._hold.follow():
            mesh.tell(note or MeshHeld())
        if mesh.runtime.is_shared:
            await self._following.start()

    async def stop(self) -> None:
        """Follow the hold no more."""
        await self._following.stop()

    async def _follow(self) -> None:
        before, is_held = self.mesh.state, await self._hold.follow()
        if self.mesh.state != before:
            _logger.info("the mesh is %s", "held: nothing begins here" if is_held else "released")

    async def _apply_settings(self) -> MeshHeld | None:
        """Hold or release the mesh as a front starts; returns the note of a restored store."""
        note = await self.mesh.database.read(read_note, HELD)
        hold = self.config.hold
        if hold or (note is not None and hold is None):
            await self._hold.change(is_held=True)
        elif hold is False and (note is not None or await self._hold.is_set()):
            await self.mesh.get(Maintenance).release(_SETTINGS)
        return None if note is None else MeshHeld.from_payload(note)

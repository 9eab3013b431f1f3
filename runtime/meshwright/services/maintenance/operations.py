"""Operations on a mesh as a whole: let it drain, and release what it holds."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Literal

from pydantic import BaseModel

from meshwright.core.access import Role
from meshwright.core.messages import Caller
from meshwright.events.audit import Audit
from meshwright.identity.rules import Rule
from meshwright.mesh import Mesh
from meshwright.services.maintenance import held
from meshwright.work import Worker

DRAIN = Rule("drains the mesh", (Role.OPERATOR,), all_tenants=True)
RELEASE = Rule("releases the mesh", (Role.OPERATOR,), all_tenants=True)
_MESH = "mesh"


class MeshWork(BaseModel):
    """Whether this process begins work (`working`, `held` or `draining`), and its tasks.

    `running` are worked on, `waiting` wait for a slot here; the mesh may have others that wait for people,
    time or money.
    """

    state: Literal["working", "held", "draining"]
    running: int
    waiting: int


class Maintenance:
    """The operations. Each raises the errors of its rule for a caller who may not use it."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def drain(self, caller: Caller, *, wait_seconds: float = 0.0) -> MeshWork:
        """Begin no more work in this process, and be not ready; what runs goes on. Safe to repeat.

        Returns when nothing runs any more, or after that time. Tasks are still accepted, and run elsewhere or
        at the next start.
        """
        DRAIN.check(caller)
        mesh, worker = self._mesh, self._mesh.get(Worker)
        if mesh.state != "draining":
            await mesh.get(Audit).record(caller, "mesh.drained", _MESH)
            worker.hold()
            mesh.state = "draining"
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds):
                await worker.until_idle()
        return self.work()

    async def release(self, caller: Caller) -> MeshWork:
        """Begin the work of a restored store, or of a process that drains; nothing where none is held."""
        RELEASE.check(caller)
        mesh = self._mesh
        if mesh.state != "working":
            note = await held.read(mesh.database)
            async with mesh.get(Audit).change(caller, "mesh.released", _MESH, note):
                await held.forget(mesh.database)
                await mesh.begin()
        return self.work()

    def work(self) -> MeshWork:
        """The state of this process."""
        worker = self._mesh.get(Worker)
        return MeshWork(state=self._mesh.state, running=worker.running, waiting=worker.waiting)

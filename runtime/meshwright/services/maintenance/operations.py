"""Operations on a mesh as a whole: hold and release its work, let it drain, verify its store."""

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
from meshwright.services.maintenance.hold import ProcessHold
from meshwright.services.maintenance.records import verify_records
from meshwright.services.maintenance.verify import StoreVerified, keeps_actors, verify_store
from meshwright.sql.meta import HELD, delete_note, read_note
from meshwright.work import Worker

DRAIN = Rule("drains the mesh", (Role.OPERATOR,), all_tenants=True)
HOLD = Rule("holds the mesh", (Role.OPERATOR,), all_tenants=True)
RELEASE = Rule("releases the mesh", (Role.OPERATOR,), all_tenants=True)
VERIFY = Rule("verifies the store", (Role.ADMIN,), all_tenants=True)
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

    def __init__(self, mesh: Mesh, hold: ProcessHold) -> None:
        self._mesh, self._hold = mesh, hold

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

    async def hold(self, caller: Caller) -> MeshWork:
        """Begin no more work in any process of the mesh, also after a restart; what runs goes on.

        Tasks are still accepted. The other processes follow within seconds. Safe to repeat.
        """
        HOLD.check(caller)
        mesh = self._mesh
        async with mesh.get(Audit).change(caller, "mesh.held", _MESH):
            await self._hold.change(is_held=True)
        return self.work()

    async def release(self, caller: Caller) -> MeshWork:
        """Begin the work of a mesh that is held, or of this process if it drains. Safe to repeat."""
        RELEASE.check(caller)
        mesh = self._mesh
        note = await mesh.database.read(read_note, HELD)
        async with mesh.get(Audit).change(caller, "mesh.released", _MESH, note):
            await mesh.database.write(delete_note, HELD)
            await self._hold.change(is_held=False)
            if mesh.state == "draining":
                await mesh.begin()
        return self.work()

    async def verify(self, caller: Caller) -> StoreVerified:
        """Compare the lists with the events, and the tasks with what is promised of them.

        Raises StoreUnavailable while a store that keeps the tasks elsewhere does not answer.
        """
        VERIFY.check(caller)
        mesh = self._mesh
        await mesh.log.flush()
        has_actors = keeps_actors(mesh.settings.store)
        arguments = mesh.database, mesh.log.projections, mesh.database.migrations
        report = await asyncio.to_thread(verify_store, *arguments, has_actors=has_actors)
        if not has_actors:
            await verify_records(mesh, report)
        return report

    def work(self) -> MeshWork:
        """The state of this process."""
        worker = self._mesh.get(Worker)
        return MeshWork(state=self._mesh.state, running=worker.running, waiting=worker.waiting)

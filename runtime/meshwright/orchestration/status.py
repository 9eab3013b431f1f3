"""How a mesh is doing: its open tasks, what they wait for, the use of its tenants, and its deployments."""

from __future__ import annotations

from datetime import datetime, timedelta

from meshwright.core import topics
from meshwright.core.messages import Event
from meshwright.events.status import (
    WORKER_BEGUN,
    WORKER_HELD,
    DeploymentStatus,
    HeldWorker,
    MeshStatus,
    status_of,
)
from meshwright.mesh import Mesh
from meshwright.models.overview import Deployments
from meshwright.models.port import Model
from meshwright.orchestration.acceptance import Admission
from meshwright.orchestration.tenants import Tenants

_HELD_SECONDS = 60.0  # a worker that is held says so several times within them


class StatusReader:
    """Reads how the open tasks of a mesh are doing."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._log = mesh.log
        self._tenants = mesh.get(Tenants)
        self._admission = mesh.get(Admission)
        self._deployments = mesh.get(Deployments)
        self._held: dict[str, tuple[datetime, HeldWorker]] = {}
        mesh.host.listen(topics.MESH, self._note, (WORKER_HELD, WORKER_BEGUN))

    def _note(self, event: Event) -> None:
        if event.event_type == WORKER_BEGUN:
            self._held.pop(event.aggregate_id, None)
        else:
            held = HeldWorker.model_validate({"worker": event.aggregate_id, **event.fields})
            self._held[event.aggregate_id] = event.time, held

    def _held_now(self) -> tuple[HeldWorker, ...]:
        oldest = self._mesh.host.clock.now() - timedelta(seconds=_HELD_SECONDS)
        self._held = {worker: known for worker, known in self._held.items() if known[0] > oldest}
        return tuple(held for _, held in self._held.values())

    async def status(self, tenant_id: str | None = "default") -> MeshStatus:
        """How a tenant's open tasks are doing; None: those of all tenants, and the deployments of models."""
        found = await self._log.view(status_of, tenant_id)
        uses = tuple(await self._tenants.uses(tenant_id, self._admission.open_of_tenants))
        found = found.model_copy(update={"tenants": uses, "state": self._mesh.state})
        if tenant_id is not None:
            return found
        seen = {"held": self._held_now(), "projections": tuple(self._log.stalled())}
        seen |= {"deployments": self._left_alone(), "model": self._mesh.get(Model).name}
        return found.model_copy(update=seen)

    def _left_alone(self) -> tuple[DeploymentStatus, ...]:
        """The deployments that get no call now, and why."""
        return tuple(
            DeploymentStatus(
                deployment=circuit.deployment,
                since=circuit.since,
                until=circuit.until,
                status=None if circuit.error.retryable else circuit.error.answered,
                reason=circuit.error.reason or str(circuit.error),
            )
            for circuit in self._deployments.left_alone()
        )

"""How a mesh is doing: its open tasks, what they wait for, the use of its tenants, and its deployments."""

from __future__ import annotations

from datetime import timedelta

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
        self._held: dict[str, Event] = {}
        mesh.host.listen(topics.MESH, self._note, (WORKER_HELD, WORKER_BEGUN))

    def _note(self, event: Event) -> None:
        self._held.pop(event.aggregate_id, None)
        if event.event_type == WORKER_HELD:
            self._held[event.aggregate_id] = event

    async def status(self, tenant_id: str | None = "default") -> MeshStatus:
        """How a tenant's open tasks are doing; None: those of all tenants, and the deployments of models."""
        found = await self._log.view(status_of, tenant_id)
        uses = tuple(await self._tenants.uses(tenant_id, self._admission.open_of_tenants))
        found = found.model_copy(update={"tenants": uses, "state": self._mesh.state})
        if tenant_id is not None:
            return found
        seen = {"deployments": self._left_alone(), "projections": tuple(self._log.stalled())}
        seen |= {"held": self._held_now(), "model": self._mesh.get(Model).name}
        return found.model_copy(update=seen)

    def _held_now(self) -> tuple[HeldWorker, ...]:
        oldest = self._mesh.host.clock.now() - timedelta(seconds=_HELD_SECONDS)
        self._held = {worker: said for worker, said in self._held.items() if said.time > oldest}
        held = ({"worker": worker, **said.fields} for worker, said in self._held.items())
        return tuple(map(HeldWorker.model_validate, held))

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

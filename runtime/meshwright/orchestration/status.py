"""How a mesh is doing: its open tasks, what they wait for, the use of its tenants, and its deployments."""

from __future__ import annotations

from meshwright.events.status import DeploymentStatus, MeshStatus, status_of
from meshwright.mesh import Mesh
from meshwright.models.overview import Deployments
from meshwright.models.port import Model
from meshwright.orchestration.acceptance import Admission
from meshwright.orchestration.tenants import Tenants


class StatusReader:
    """Reads how the open tasks of a mesh are doing."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._log = mesh.log
        self._tenants = mesh.get(Tenants)
        self._admission = mesh.get(Admission)
        self._deployments = mesh.get(Deployments)

    async def status(self, tenant_id: str | None = "default") -> MeshStatus:
        """How a tenant's open tasks are doing; None: those of all tenants, and the deployments of models."""
        found = await self._log.view(status_of, tenant_id)
        uses = tuple(await self._tenants.uses(tenant_id, self._admission.open_of_tenants))
        found = found.model_copy(update={"tenants": uses, "state": self._mesh.state})
        if tenant_id is not None:
            return found
        seen = {"deployments": self._left_alone(), "projections": tuple(self._log.stalled())}
        return found.model_copy(update={"model": self._mesh.get(Model).name, **seen})

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

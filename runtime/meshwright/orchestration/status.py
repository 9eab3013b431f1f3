"""How a mesh is doing: its open tasks, what they wait for, the use of its tenants, and its deployments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import ValidationError

from meshwright.core import topics
from meshwright.core.messages import Event, Plain
from meshwright.events.filter import EventFilter
from meshwright.events.log import LOSS_NOTICED
from meshwright.events.status import (
    WORKER_BEGUN,
    WORKER_HELD,
    DeploymentStatus,
    HeldWorker,
    MeshStatus,
    NoticedLoss,
    status_of,
)
from meshwright.mesh import Mesh
from meshwright.models.overview import Deployments
from meshwright.models.port import Model
from meshwright.orchestration.acceptance import Admission
from meshwright.orchestration.missing import MissingAgents
from meshwright.orchestration.tenants import Tenants

PlainT = TypeVar("PlainT", bound=Plain)
_LOSS_SHOWN = timedelta(days=7)
_MAX_LOSSES = 10
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
        mesh.runtime.listen(topics.MESH, self._note, (WORKER_HELD, WORKER_BEGUN))

    def _note(self, event: Event) -> None:
        self._held.pop(event.aggregate_id, None)
        if event.event_type == WORKER_HELD:
            self._held[event.aggregate_id] = event

    async def status(self, tenant_id: str | None = "default") -> MeshStatus:
        """How a tenant's open tasks are doing; None: of all tenants, with the deployments of models."""
        status = await self._log.view(status_of, tenant_id)
        missing = await self._mesh.get(MissingAgents).of_tenant(tenant_id)
        uses = tuple(await self._tenants.uses(tenant_id, self._admission.open_of_tenants))
        status = status.model_copy(update={"tenants": uses, "state": self._mesh.state, "missing": missing})
        if tenant_id is not None:
            return status
        fields = {"deployments": self._left_alone(), "projections": tuple(self._log.stalled())}
        fields |= {"held": self._held_now(), "model": self._mesh.get(Model).name}
        return status.model_copy(update={**fields, "losses": await self._losses()})

    async def _losses(self) -> tuple[NoticedLoss, ...]:
        since = self._mesh.runtime.clock.now() - _LOSS_SHOWN
        query = EventFilter(event_type=LOSS_NOTICED, since=since, order="desc", limit=_MAX_LOSSES)
        events = await self._log.query(query)
        return tuple(_read(NoticedLoss, [{"at": event.time, **event.fields} for event in events]))

    def _held_now(self) -> tuple[HeldWorker, ...]:
        oldest = self._mesh.runtime.clock.now() - timedelta(seconds=_HELD_SECONDS)
        self._held = {worker: event for worker, event in self._held.items() if event.time > oldest}
        return tuple(
            _read(HeldWorker, [{"worker": worker, **event.fields} for worker, event in self._held.items()])
        )

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


def _read(model: type[PlainT], documents: Iterable[dict[str, Any]]) -> Iterator[PlainT]:
    for document in documents:
        with suppress(ValidationError):  # an event that another program has published: the names are ours
            yield model.model_validate(document)

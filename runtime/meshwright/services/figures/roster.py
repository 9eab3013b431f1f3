"""The workers of a mesh: each process says every few seconds what it runs, and fronts remember it."""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import datetime
from typing import Any, Literal

from meshwright.agents.loader import BoundAgents
from meshwright.core import topics
from meshwright.core.errors import HostError
from meshwright.core.messages import Event
from meshwright.kernel.timers import Duty
from meshwright.mesh import Mesh
from meshwright.orchestration.settings import PresenceSettings
from meshwright.services.figures.records import WorkerFigures
from meshwright.work import Worker

_SEEN, _ROLL_CALL = "worker.seen", "worker.roll_call"
_MISSED = 3  # beats without a word, after which a worker is no longer listed


class Roster:
    """The workers that are there, as far as this process has heard."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._seconds = mesh.settings[PresenceSettings].heartbeat_seconds
        self._started_at = mesh.runtime.clock.now()
        self._heard: dict[str, WorkerFigures] = {}
        self._telling = Duty(mesh.runtime.clock, self._seconds, self._tell, "worker: seen")
        mesh.runtime.listen(topics.MESH, self._hear, (_SEEN, _ROLL_CALL))

    async def start(self) -> None:
        """Ask who is there and, where other processes may ask, begin to tell."""
        if self._mesh.runtime.is_shared:
            self._show(_ROLL_CALL, {})
            await self._telling.start()

    async def stop(self) -> None:
        """Stop telling."""
        await self._telling.stop()

    async def workers(self) -> list[WorkerFigures]:
        """Those that are there, this process first; one that goes away is listed for three beats more."""
        now = self._mesh.runtime.clock.now()
        for name, worker in list(self._heard.items()):
            if (now - worker.seen_at).total_seconds() > _MISSED * self._seconds:
                del self._heard[name]
        others = sorted(self._heard.values(), key=lambda worker: (worker.started_at, worker.incarnation))
        leases = await asyncio.gather(*(self._lease_of(worker) for worker in others))
        listed = [
            worker.model_copy(update={"lease": lease}) for worker, lease in zip(others, leases, strict=True)
        ]
        return [self._own(now), *listed] if self._mesh.ready else listed

    async def _lease_of(self, worker: WorkerFigures) -> Literal["held", "expired", "unknown"]:
        try:
            return "expired" if await self._mesh.runtime.has_expired(worker.incarnation) else "held"
        except HostError:  # the store is away, and the figures of the others are still worth reading
            return "unknown"

    def _own(self, now: datetime) -> WorkerFigures:
        mesh, worker = self._mesh, self._mesh.get(Worker)
        return WorkerFigures(
            incarnation=mesh.runtime.incarnation,
            store=mesh.runtime.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            is_front=mesh.role.is_front,
            apps=tuple(sorted(mesh.role.apps or ())),
            started_at=self._started_at,
            seen_at=now,
            agents={agent_id: worker.slots_of(agent_id) for agent_id in mesh.get(BoundAgents)},
            running=worker.running,
            waiting=worker.waiting,
        )

    async def _tell(self) -> None:
        self._say()

    def _say(self) -> None:
        self._show(_SEEN, self._own(self._mesh.runtime.clock.now()).model_dump(mode="json"))

    def _show(self, event_type: str, payload: dict[str, Any]) -> None:
        self._mesh.runtime.broadcast(self._mesh.event(event_type, payload))

    def _hear(self, event: Event) -> None:
        if event.aggregate_id == self._mesh.aggregate_id:
            return
        if event.event_type == _ROLL_CALL:
            if self._mesh.ready:
                self._say()
            return
        worker = WorkerFigures.model_validate(event.payload)
        self._heard[worker.incarnation] = worker

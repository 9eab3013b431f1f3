"""The component that takes tasks and gives them to agents."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.component import Actors, Component
from meshwright.core import topics
from meshwright.events.projections import Projection
from meshwright.events.status import WaitProjection
from meshwright.kernel.host import Subscription
from meshwright.kernel.turns import ActorKind
from meshwright.ledger.spending import Spending
from meshwright.mesh import Mesh
from meshwright.orchestration.acceptance import Admission
from meshwright.orchestration.event_words import FACTS
from meshwright.orchestration.orchestrator import Orchestrator, task_of
from meshwright.orchestration.presence import Presence
from meshwright.orchestration.registry import Registry
from meshwright.orchestration.scoring import OutcomeProjection
from meshwright.orchestration.tenants import Tenants
from meshwright.roles import FRONT
from meshwright.work.conversation import CONVERSATION, Conversation
from meshwright.work.protocol import ORCHESTRATOR

ORCHESTRATION = ORCHESTRATOR.lower()
"""The app in which tasks are orchestrated, and what the whole mesh asks lives."""


class OrchestrationComponent(Component):
    """Which agents are there, which of them gets a task, and how many tasks may be open."""

    name = "orchestration"
    facts = FACTS
    apps = (ORCHESTRATION, FRONT)

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        presence, host = mesh.settings.presence, mesh.host
        mesh.registry = Registry(
            host.clock,
            degraded_after_seconds=presence.degraded_after_seconds,
            offline_after_seconds=presence.offline_after_seconds,
        )
        mesh.spending = Spending(
            host,
            mesh.log,
            budgets=mesh.budgets,
            allowances=mesh.allowances,
            registry=mesh.registry,
            keys=mesh.keys,
        )
        mesh.tenants = Tenants(mesh.settings.tenants, host.clock, mesh.tell, mesh.log.stored_bytes)
        mesh.admission = Admission(
            host,
            mesh.log,
            mesh.tenants,
            max_open_tasks=self.config.max_open_tasks,
            max_thread_tasks=self.config.max_thread_tasks,
        )
        seconds = presence.heartbeat_seconds
        own = Presence(host, mesh.log, mesh.registry, mesh.registrations(), heartbeat_seconds=seconds)
        self.parts += [mesh.admission, own] if mesh.role.is_front else [own]

    def projections(self) -> Iterable[Projection]:
        """How the last attempts of agents ended, and what tasks wait for."""
        return [OutcomeProjection(), WaitProjection()]

    def actors(self) -> Iterable[Actors]:
        """One actor for each task, and one for the conversation of each thread."""
        attempts = self.config.max_attempts
        kind = ActorKind.of(Orchestrator, registry=self.mesh.registry, max_attempts=attempts)
        results = Subscription(topics.TASK_RESULTS, task_of, "settle", sealed=True)
        return [
            Actors(kind, ORCHESTRATION, (results,)),
            Actors(ActorKind.of(Conversation, type=CONVERSATION), ORCHESTRATION),
        ]

"""The component that takes tasks and gives them to agents."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.agents.loader import BoundAgents
from meshwright.core import topics
from meshwright.core.capability import Registration
from meshwright.engine.events.projections import Projection
from meshwright.engine.events.status import WaitProjection
from meshwright.engine.events.waits import EventWaits
from meshwright.engine.kernel.guarantees import Subscription
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.work.conversation import CONVERSATION, Conversation
from meshwright.mesh.components import Actors, Component
from meshwright.mesh.mesh import FRONT, ORCHESTRATION, Mesh
from meshwright.mesh.orchestration.acceptance import Admission
from meshwright.mesh.orchestration.orchestrator import Orchestrator, route_to_task
from meshwright.mesh.orchestration.presence import Presence
from meshwright.mesh.orchestration.registry import Registry
from meshwright.mesh.orchestration.scoring import OutcomeProjection
from meshwright.mesh.orchestration.settings import OrchestrationSettings, PresenceSettings, TenantsSettings
from meshwright.mesh.orchestration.status import MissingAgents, StatusReader
from meshwright.mesh.orchestration.task_spans import TaskSpans
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.mesh.orchestration.tenants import Tenants
from meshwright.money.allowances import Allowances
from meshwright.money.budgets import Budgets
from meshwright.money.keys import Keys
from meshwright.money.spending import Spending

_TOOLSET_EVENTS = ("toolset.ready", "toolset.changed", "toolset.degraded")


class OrchestrationComponent(Component):
    """Which agents are there, which of them gets a task, how many may be open, and the operations on them."""

    name = "orchestration"
    config: OrchestrationSettings
    apps = (ORCHESTRATION, FRONT)

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        presence, runtime = mesh.settings[PresenceSettings], mesh.runtime
        self._registry = Registry(
            runtime.clock,
            degraded_after_seconds=presence.degraded_after_seconds,
            offline_after_seconds=presence.offline_after_seconds,
        )
        spending = Spending(
            runtime,
            mesh.log,
            budgets=mesh.get(Budgets),
            allowances=mesh.get(Allowances),
            registry=self._registry,
            keys=mesh.get(Keys),
        )
        tenants = Tenants(
            mesh.settings[TenantsSettings],
            runtime.clock,
            mesh.tell,
            mesh.log.stored_bytes,
            max_open_tasks=self.config.max_open_tasks,
        )
        admission = Admission(
            runtime,
            mesh.log,
            tenants,
            max_open_tasks=self.config.max_open_tasks,
            max_thread_tasks=self.config.max_thread_tasks,
        )
        seconds = presence.heartbeat_seconds
        own = Presence(runtime, mesh.log, self._registry, self._registrations(), heartbeat_seconds=seconds)
        # The states of toolsets are a part of how agents are shown.
        runtime.listen(topics.MESH, lambda event: own.renew(self._registrations()), _TOOLSET_EVENTS)
        for thing in (self._registry, spending, tenants, admission, own):
            mesh.provide(thing)
        missing = mesh.provide(MissingAgents(mesh))
        tasks = mesh.provide(Tasks(mesh))
        mesh.provide(StatusReader(mesh))
        waits = EventWaits(runtime, mesh.database, mesh.log, tasks.resume)
        self.parts += [admission, own, waits, missing, spending] if mesh.role.is_front else [own]

    def _registrations(self) -> list[Registration]:
        """How the agents and apps of this process make themselves known; the latter take no tasks."""
        mesh = self.mesh
        agents = [bound.registration() for bound in mesh.get(BoundAgents).values()]
        own = [app for app in mesh.apps if mesh.role.runs(app)]
        return [*agents, *(Registration(agent_id=app, name=app, kind="system") for app in own)]

    def projections(self) -> Iterable[Projection]:
        """How the last attempts of agents ended, and what tasks wait for."""
        return [OutcomeProjection(), WaitProjection()]

    def actors(self) -> Iterable[Actors]:
        """One actor for each task, and one for the conversation of each thread."""
        mesh, attempts = self.mesh, self.config.max_attempts
        kind = ActorKind.from_class(Orchestrator, registry=self._registry, max_attempts=attempts)
        if mesh.tracing.enabled and mesh.role.runs(ORCHESTRATION):
            mesh.runtime.take_signals(kind.type, TaskSpans(mesh.tracing).end)
        results = Subscription(topics.TASK_RESULTS, route_to_task, "settle", sealed=True)
        return [
            Actors(kind, ORCHESTRATION, (results,)),
            Actors(ActorKind.from_class(Conversation, type=CONVERSATION), ORCHESTRATION),
        ]

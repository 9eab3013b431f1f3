"""The components that take tasks: orchestration, people, what is kept of tasks, traces, and the MQTT edge."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshwright.component import Actors, Check, Component
from meshwright.core import topics
from meshwright.core.encoding import own_json
from meshwright.core.tracing import TENANT, Tracing
from meshwright.events.inbox import Inbox, InboxProjection
from meshwright.events.projections import Projection
from meshwright.events.status import WaitProjection
from meshwright.events.waits import EventWaits
from meshwright.kernel.host import Subscription
from meshwright.kernel.turns import ActorKind
from meshwright.ledger.spending import Spending
from meshwright.mesh import Mesh
from meshwright.orchestration.acceptance import Admission
from meshwright.orchestration.orchestrator import Orchestrator, task_of
from meshwright.orchestration.presence import Presence
from meshwright.orchestration.registry import Registry
from meshwright.orchestration.scoring import OutcomeProjection
from meshwright.orchestration.tenants import Tenants
from meshwright.roles import FRONT
from meshwright.run.erasure import Contents
from meshwright.work.conversation import CONVERSATION, Conversation
from meshwright.work.protocol import DEFAULT_TENANT, ORCHESTRATOR

ORCHESTRATION = ORCHESTRATOR.lower()
"""The app in which tasks are orchestrated, and what the whole mesh asks lives."""


class TracingComponent(Component):
    """Spans of runs and turns, kept in the event log."""

    name = "tracing"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._endpoint = self.config.otlp_endpoint if isinstance(mesh.tracing, Tracing) else None
        if isinstance(mesh.tracing, Tracing):
            mesh.tracing.publish_to(self._record)

    def _record(self, trace_id: str, spans: Sequence[Mapping[str, Any]]) -> None:
        """Put the spans of a trace into the log, those of each tenant apart: others may join its trace."""
        by_tenant: dict[str, list[Mapping[str, Any]]] = {}
        for span in spans:
            tenant_id = span["attributes"].get(TENANT, DEFAULT_TENANT)
            by_tenant.setdefault(tenant_id, []).append(span)
        for tenant_id, own in by_tenant.items():
            payload = own_json(trace_id, {"spans": own})
            self.mesh.tell(
                "trace.spans", payload, topic=topics.TRACES, trace_id=trace_id, tenant_id=tenant_id
            )

    def checks(self) -> Iterable[Check]:
        """Whether the collector accepts spans."""
        return [Check("tracing", self._check)] if self._endpoint else []

    async def _check(self) -> str:
        from meshwright.core.otel import check_collector

        assert self._endpoint is not None
        return await asyncio.to_thread(check_collector, self._endpoint)

    async def stop(self) -> None:
        """Publish what is left."""
        await self.mesh.tracing.close()


class ContentsComponent(Component):
    """Deletes what was said at the steps of old tasks, where the settings say after how many days."""

    name = "contents"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        settings = mesh.settings
        limits = [
            days for days in (settings.keep_contents_days, settings.keep_events_days) if days is not None
        ]
        if limits and mesh.role.is_front:
            self.parts.append(Contents(mesh.host, mesh.log, mesh.tell, keep_days=min(limits)))

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Have the Redis of a mesh on Dapr take from its disk what was erased. Raises ServiceFailed."""
        dapr = self.mesh.settings.dapr
        if self.mesh.settings.store == "dapr" and dapr.redis_host is not None:
            from meshwright.stack.checks import rewrite_redis_log

            password = "" if dapr.redis_password is None else dapr.redis_password.get_secret_value()
            await rewrite_redis_log(dapr.redis_host.split(",")[0], password)


class PeopleComponent(Component):
    """What tasks wait for people to say, and events that they wait for."""

    name = "people"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        mesh.inbox = Inbox(mesh.log)
        if mesh.role.is_front:
            self.parts.append(EventWaits(mesh.host, mesh.log, mesh.resume))

    def projections(self) -> Iterable[Projection]:
        """The list of questions."""
        return [InboxProjection()]


class OrchestrationComponent(Component):
    """Which agents are there, which of them gets a task, and how many tasks may be open."""

    name = "orchestration"
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


class MqttComponent(Component):
    """Lets MQTT clients in, where a broker is set and this process is the front."""

    name = "mqtt"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        if self.config.url and mesh.role.is_front:
            from meshwright.edges.mqtt import MqttEdge

            self._edge = MqttEdge(mesh)
            self.parts.append(self._edge)

    def checks(self) -> Iterable[Check]:
        """Whether the broker lets the mesh in."""
        return [Check("mqtt", self._edge.check)] if self.parts else []

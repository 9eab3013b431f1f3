"""The components that every mesh has, in the order in which they join."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from meshwright.agent import Agent
from meshwright.agents.binding import bind_agents, check_tables
from meshwright.agents.loader import project_file, prompts_brought
from meshwright.agents.tags import start_warnings
from meshwright.component import Actors, Check, Component
from meshwright.context.memory import Memory
from meshwright.context.plan import DEFAULT_RULES
from meshwright.context.service import CONTEXT_SERVICE, ContextClient, ContextService
from meshwright.context.text import count_tokens
from meshwright.core import topics
from meshwright.core.encoding import own_json
from meshwright.core.errors import MeshError, ModelError, PromptError
from meshwright.core.limits import Limits
from meshwright.core.messages import Event, Task
from meshwright.core.plugins import MODELS, installed
from meshwright.core.tracing import Tracing
from meshwright.edges.replies import Courier
from meshwright.events.inbox import Inbox, InboxProjection
from meshwright.events.projections import Projection
from meshwright.events.status import DeploymentStatus, WaitProjection
from meshwright.events.waits import EventWaits
from meshwright.kernel.host import Subscription
from meshwright.kernel.turns import ActorKind
from meshwright.ledger.account import ACCOUNT, BudgetAccount
from meshwright.ledger.accounting import Accounted, call_events
from meshwright.ledger.allowances import ALLOWANCES, AllowanceKeeper, Allowances
from meshwright.ledger.budgets import Budgets
from meshwright.ledger.costs import CallProjection
from meshwright.ledger.keys import KEY, KEYS, KeyProjection, Keys, VirtualKey, VirtualKeys
from meshwright.mesh import FRONT, Mesh
from meshwright.models.adapt import Adapted
from meshwright.models.cache import cached
from meshwright.models.circuits import COOLED_DOWN, RECOVERED, REFUSED, Circuits, Guarded
from meshwright.models.port import Adapter, CallContext, Model, ModelRequest, ModelWindow
from meshwright.models.retry import MAX_WAIT_SECONDS, Retrying
from meshwright.models.select import adapter_for, choose_model, with_named_models
from meshwright.orchestration.acceptance import Admission
from meshwright.orchestration.orchestrator import Orchestrator, task_of
from meshwright.orchestration.presence import Presence, every
from meshwright.orchestration.registry import Registry
from meshwright.orchestration.scoring import OutcomeProjection
from meshwright.prompts import Prompts
from meshwright.run import Runner, Services
from meshwright.run.contents import Contents
from meshwright.run.parking import Parking
from meshwright.settings import Settings
from meshwright.settings.loading import FILE_NAME
from meshwright.stack.machine import LOCK_NAME
from meshwright.tools.threads import Overrun
from meshwright.tools.toolset import ToolSettings
from meshwright.work import AgentThread, Worker
from meshwright.work.conversation import CONVERSATION, Conversation
from meshwright.work.protocol import ORCHESTRATOR
from meshwright.work.thread import thread_of

ORCHESTRATION = ORCHESTRATOR.lower()
"""The app in which tasks are orchestrated, and what the whole mesh asks lives."""


class TracingComponent(Component):
    """Spans of runs and turns, kept in the event log."""

    name = "tracing"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        if isinstance(mesh.tracing, Tracing):
            mesh.tracing.publish_to(
                lambda trace_id, spans: mesh.tell(
                    "trace.spans",
                    own_json(trace_id, {"spans": spans}),
                    topic=topics.TRACES,
                    trace_id=trace_id,
                )
            )

    async def stop(self) -> None:
        """Publish what is left."""
        await self.mesh.tracing.close()


class PromptsComponent(Component):
    """The prompt files of the project, read again when they change."""

    name = "prompts"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        folder = project_file(mesh.project, mesh.settings.prompts.dir)
        mesh.prompts = Prompts(folder, brought=prompts_brought(mesh.agent_types), on_event=mesh.tell)
        self._reloading: asyncio.Task[None] | None = None

    def checks(self) -> Iterable[Check]:
        """Whether every prompt file can be used."""
        return [Check("prompts", self._check)]

    async def _check(self) -> str:
        problems = self.mesh.prompts.check()
        if problems:
            more = f" (and {len(problems) - 1} more: mesh prompts check)" if len(problems) > 1 else ""
            raise PromptError(f"{problems[0]}{more}")
        return f"{len(self.mesh.prompts.names())} in {self.mesh.prompts.directory}"

    async def start(self) -> None:
        """Look for changed files every few seconds."""

        async def refresh() -> None:
            self.mesh.prompts.refresh()

        seconds = self.mesh.settings.prompts.reload_seconds
        self._reloading = asyncio.create_task(every(self.mesh.host.clock, seconds, refresh))

    async def stop(self) -> None:
        """Look no more."""
        reloading, self._reloading = self._reloading, None
        if reloading is not None:
            reloading.cancel()
            with suppress(asyncio.CancelledError):
                await reloading


class LedgerComponent(Component):
    """Budgets, of the settings and of agents, each with its account."""

    name = "ledger"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        of_agents = (budget for agent in mesh.agent_types for budget in agent.budgets)
        mesh.allowances = Allowances(mesh.host)
        declared = [*mesh.settings.ledger.budgets, *of_agents]
        mesh.budgets = Budgets(declared, mesh.host, mesh.allowances)

    def projections(self) -> Iterable[Projection]:
        """The calls of models and their costs."""
        return [CallProjection()]

    def actors(self) -> Iterable[Actors]:
        """The accounts, and the allowances."""
        kinds = ActorKind.of(BudgetAccount, type=ACCOUNT), ActorKind.of(AllowanceKeeper, type=ALLOWANCES)
        return [Actors(kind, ORCHESTRATION) for kind in kinds]


class KeysComponent(Component):
    """Virtual keys of callers."""

    name = "keys"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        has_log = mesh.role.is_front or mesh.settings.database is not None
        mesh.keys = Keys(mesh.host, mesh.log, mesh.database, has_log=has_log)

    def projections(self) -> Iterable[Projection]:
        """The list of keys."""
        return [KeyProjection()]

    async def start(self) -> None:
        """List the keys of an earlier version."""
        if self.mesh.role.is_front:
            await self.mesh.keys.start()

    def actors(self) -> Iterable[Actors]:
        """Each key, and whether callers need one."""
        return [
            Actors(ActorKind.of(VirtualKey, type=KEY), ORCHESTRATION),
            Actors(ActorKind.of(VirtualKeys, type=KEYS), ORCHESTRATION),
        ]


class ModelsComponent(Component):
    """The model that answers: chosen by the settings, with retries, a cache and the ledger around it."""

    name = "models"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        settings = mesh.settings
        path = project_file(mesh.project, settings.models.config)
        self.circuits = Circuits()
        self.chosen = self._choose() if mesh.given_model is None else adapter_for(mesh.given_model)
        mesh.groups = None if (groups := self.chosen.groups()) is None else tuple(sorted(groups))
        mesh.model = self._chain(path)
        self.circuits.on_change = mesh.tell
        mesh.deployments_left_alone = self._left_alone
        mesh.host.listen(topics.MESH, self._learn, (COOLED_DOWN, REFUSED, RECOVERED))

    async def stop(self) -> None:
        """Book what is still to be booked, and close the connections."""
        await self.mesh.model.close()

    def warnings(self) -> Iterable[str]:
        """What the file behind the model hardly means, and tags that no deployment has."""
        return start_warnings(self.chosen, self.mesh.prompts, self.mesh.agent_types)

    def _chain(self, path: Path) -> Model:
        """The one chain for every caller: adapt, account, cache, retry, then what was chosen.

        Each form that a request is adapted to is a call with a row of its own; an answer from the cache is
        a row that costs nothing; retries and fallbacks are part of one call.
        """
        mesh, settings, clock = self.mesh, self.mesh.settings, self.mesh.host.clock
        is_server = self.chosen.kind == "http"
        guarded = Guarded(self.chosen, self.circuits) if is_server else self.chosen
        max_wait = MAX_WAIT_SECONDS if settings.models.park else None
        retrying = Retrying(guarded, clock, on_retry=self._retried, max_wait_seconds=max_wait)
        cache = cached(retrying, settings, mesh.database.folder, path, clock, kind=self.chosen.kind)
        prices = mesh.prices = self.chosen.prices(settings.ledger.default_price)
        return Adapted(Accounted(cache, mesh.budgets, prices, call_events(mesh.host)))

    def checks(self) -> Iterable[Check]:
        """Which model answers; `mesh models test` calls it."""
        return [Check("models", self._check)]

    async def _check(self) -> str:
        return f"{self.chosen.name}; mesh models test calls it"

    def _choose(self) -> Adapter:
        mesh = self.mesh
        adapter = mesh.settings.models.adapter
        brought = next((plugin for plugin in installed(MODELS) if plugin.name == adapter), None)
        if brought is not None:
            return adapter_for(brought.load()(mesh.settings))
        path = project_file(mesh.project, mesh.settings.models.config)
        shared = self.circuits
        chosen = choose_model(mesh.settings, path, count_tokens=count_tokens, circuits=shared)
        if mesh.settings.models.adapter == "offline":
            return chosen
        return with_named_models(chosen, _agents_here(mesh), path, circuits=shared)

    def _left_alone(self) -> list[DeploymentStatus]:
        return [
            DeploymentStatus(
                deployment=circuit.deployment,
                since=circuit.since,
                until=circuit.until,
                status=None if circuit.error.retryable else circuit.error.answered,
                reason=circuit.error.reason or str(circuit.error),
            )
            for circuit in self.circuits.open()
        ]

    def _learn(self, event: Event) -> None:
        """Take what another worker has told of a deployment."""
        if event.aggregate_id != self.mesh.aggregate_id:
            age = (self.mesh.host.clock.now() - event.time).total_seconds()
            self.circuits.learn(event.event_type, event.payload, age)

    def _retried(self, request: ModelRequest, error: ModelError, delay_seconds: float) -> None:
        context, delay = request.context, round(delay_seconds, 3)
        payload = {"error": _fault(error), "delay_seconds": delay, "step": context.step}
        _tell_task(self.mesh, "model.retried", payload, context, request.user)


class ContextComponent(Component):
    """What an agent is told: planned by rules, compressed by a model, with memories."""

    name = "context"
    apps = (CONTEXT_SERVICE,)

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        mesh.memory = Memory(mesh.database, mesh.host.clock)
        here = mesh.role.runs(CONTEXT_SERVICE)
        mesh.context = ContextClient(
            mesh.host, mesh.model, mesh.prompts, rules=DEFAULT_RULES if here else None
        )

    def actors(self) -> Iterable[Actors]:
        """The context-service."""
        return [Actors(ActorKind.of(ContextService, type=CONTEXT_SERVICE), CONTEXT_SERVICE)]


class AgentsComponent(Component):
    """The agents of this process with their tools, and the worker that runs their tasks."""

    name = "agents"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        settings = tool_settings(mesh.settings, mesh.project)
        check_tables(settings.tables, mesh.agent_types)
        self._agents = mesh.agents = bind_agents(_agents_here(mesh), settings, self._overran)
        self.parts += self._agents.values()
        mesh.worker = Worker(mesh.host, Runner(self._services(), mesh.agents), self._slots)

    def actors(self) -> Iterable[Actors]:
        """The threads of each agent."""
        max_tasks = self.mesh.settings.orchestration.max_thread_tasks
        for agent in self.mesh.agent_types:
            kind = ActorKind.of(AgentThread, type=agent.agent_id, max_tasks=max_tasks)
            tasks = Subscription(topics.tasks(agent.agent_id), thread_of, "enqueue", sealed=True)
            yield Actors(kind, agent.agent_id, (tasks,))

    def checks(self) -> Iterable[Check]:
        """Which agents there are."""
        return [Check("agents", self._check)]

    async def _check(self) -> str:
        return ", ".join(self._agents) or "none"

    def _services(self) -> Services:
        mesh, settings, models = self.mesh, self.mesh.settings, self.mesh.settings.models
        parking = Parking(models.park_seconds, models.max_park_seconds) if models.park else None
        return Services(
            host=mesh.host,
            model=mesh.model,
            context=mesh.context,
            memory=mesh.memory,
            prompts=mesh.prompts,
            tracing=mesh.tracing,
            clock=mesh.host.clock,
            limits=Limits(**{name: getattr(settings.agents, name) for name in Limits.model_fields}),
            max_chain=settings.agents.max_chain,
            approval_rules=settings.approvals.rules,
            patience_days=settings.people.patience_days,
            max_context_tokens=settings.context.max_tokens,
            max_memory_tokens=settings.context.memory_max_tokens,
            window=self._window,
            trace_content=settings.tracing.content,
            stream=settings.models.stream,
            parking=parking,
            budgets=mesh.budgets,
        )

    def _window(self, model: str, tags: tuple[str, ...]) -> ModelWindow:
        known = self.mesh.prices.window(model, tags)
        return ModelWindow(known.input or self.mesh.settings.context.window_tokens, known.output)

    def _slots(self, agent_id: str) -> int:
        own = self._agents[agent_id].agent.max_concurrency if agent_id in self._agents else None
        return own or self.mesh.settings.agents.max_concurrency

    def _overran(self, overrun: Overrun) -> None:
        payload = {"tool": overrun.tool, "seconds": overrun.seconds, "ended": overrun.ended}
        _tell_task(self.mesh, "tool.overran", payload, overrun.task, overrun.agent_id)


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
        mesh.admission = Admission(
            host,
            mesh.log,
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

            self.parts.append(MqttEdge(mesh))


def _agents_here(mesh: Mesh) -> list[type[Agent]]:
    """The agents whose tasks this process runs."""
    return [agent for agent in mesh.agent_types if mesh.role.runs(agent.agent_id)]


def _fault(error: MeshError) -> dict[str, str]:
    return {"type": error.code, "message": str(error)}


def _tell_task(
    mesh: Mesh, event_type: str, payload: dict[str, Any], task: Task | CallContext, agent_id: str
) -> None:
    """Put an event of a task into the log."""
    known = {"task_id": task.task_id, "tenant_id": task.tenant_id, "agent_id": agent_id}
    mesh.tell(event_type, payload, topic=topics.TASK_PROGRESS, **known)


def tool_settings(settings: Settings, project: Path) -> ToolSettings:
    """What the agents' tools may touch. The mesh's own data and configuration are hidden from them."""
    data = project / settings.data_dir
    # A worker's folder lies in that of its stack, where the broker's and the store's secrets are.
    is_in_a_stack = settings.store == "dapr" and (data.parent / LOCK_NAME).exists()
    own = (data.parent if is_in_a_stack else data, Path(FILE_NAME), settings.models.config)
    return ToolSettings(
        workspace=project / settings.tools.workspace,
        hidden=tuple(project / path for path in own),
        tables=settings.tools.toolsets,
        allow_private_addresses=settings.tools.allow_private_addresses,
        tool_timeout_seconds=settings.tools.timeout_seconds,
        max_concurrency=settings.agents.max_concurrency,
    )


BUILTIN: tuple[type[Component], ...] = (
    TracingComponent,
    PromptsComponent,
    LedgerComponent,
    KeysComponent,
    ModelsComponent,
    ContextComponent,
    AgentsComponent,
    OrchestrationComponent,
    PeopleComponent,
    ContentsComponent,
    Courier,
    MqttComponent,
)

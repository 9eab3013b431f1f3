"""How a mesh is doing: open tasks, what they wait for, use of tenants, deployments, missing agents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from meshwright.agents.agent import AgentTypes
from meshwright.agents.event_types import AgentMissing
from meshwright.core import topics
from meshwright.core.encoding import View
from meshwright.core.errors import NoAgentAvailable, NotFound
from meshwright.core.events import Event
from meshwright.core.payloads import Payload
from meshwright.engine.events.event_types import LossNoticed, StoreEmptied
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.status import (
    WORKER_BEGUN,
    WORKER_HELD,
    BrokerStatus,
    DeploymentStatus,
    EmptiedStore,
    HeldWorker,
    LeftOutTool,
    MeshStatus,
    MissingAgent,
    NoticedLoss,
    mesh_status,
    missing_agents,
    open_agents,
)
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.timers import Duty
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.work import AgentThread, Cancel
from meshwright.engine.work.protocol import TaskKey
from meshwright.engine.work.record import read_entry, read_task
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.acceptance import Admission
from meshwright.mesh.orchestration.presence import CHECK_SECONDS
from meshwright.mesh.orchestration.registry import Registry
from meshwright.mesh.orchestration.tenants import Tenants
from meshwright.models.overview import Deployments
from meshwright.models.port import Model

ViewT = TypeVar("ViewT", bound=View)
_LOSS_SHOWN = timedelta(days=7)
_MAX_LOSSES = 10
_HELD_SECONDS = 60.0  # a worker that is held says so several times within them
_EDGE_EVENTS = ("edge.connected", "edge.disconnected", "edge.limited", "edge.session_lost")
AGENT_MISSING, AGENT_RETURNED = "agent.missing", "agent.returned"
_MAX_NAMED = 1_000  # events that are read at the start


class MissingAgents:
    """Publishes an event when an agent is missing, and one when it is back.

    Agents in other processes make themselves known within seconds of the start: an agent that may be there is
    reported once two looks in a row do not find it.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._runtime = mesh.runtime
        self._registry = mesh.get(Registry)
        self._loaded = {agent.agent_id for agent in mesh.get(AgentTypes)}
        self._named: set[str] = set()
        self._named_before: set[str] = set()  # by an earlier process
        self._suspects: set[str] = set()
        self._cancelled: dict[str, set[tuple[str, str]]] = {}  # tasks of suspects, with their tenants
        self._looking = Duty(mesh.runtime.clock, CHECK_SECONDS, self._look, "missing agents")

    async def start(self) -> None:
        """Name the missing agents, and look again every few seconds."""
        self._named, self._suspects = set(), set()
        self._named_before = await self._left_missing()
        if not self._runtime.is_shared:  # its agents are all that there will be
            self._suspects = set(await self._now())
            await self._look()
        await self._looking.start()

    async def stop(self) -> None:
        """Look no more."""
        await self._looking.stop()

    def is_missing(self, agent_id: str) -> bool:
        """Whether no process of the mesh has an agent now, as far as this one knows."""
        return agent_id not in self._loaded and not self._registry.has_worker(agent_id)

    async def for_tenant(self, tenant_id: str | None) -> tuple[MissingAgent, ...]:
        """The missing agents with open tasks of a tenant; None: of all tenants."""
        return tuple((await self._now(tenant_id)).values())

    def reach(self, thread: ActorRef) -> None:
        """See to it that turns of a thread can be called whose agent does not run in this process.

        Raises NoAgentAvailable where only a process that runs the agent could take them, and none does.
        """
        runtime = self._runtime
        if thread.type in runtime.kinds or thread.type in runtime.remote_kinds:
            return
        if runtime.forwards and self.is_missing(thread.type):
            raise NoAgentAvailable(
                f"The agent {thread.type} of that task is not loaded here, and no other process has it",
                remedy=f"Start a mesh with the file of {thread.type}, then try again; nothing was changed",
                field="agent_id",
            )
        runtime.register_remote(ActorKind.from_class(AgentThread, type=thread.type))

    async def cancel(self, task_id: str, tenant_id: str) -> None:
        """Ask for a task to end, and for those below it that no thread would tell."""
        for cancel in await self._cancels(task_id, tenant_id):
            await self._runtime.call(TaskKey(tenant_id, cancel.task_id).ref, "cancel", cancel)

    async def _cancels(self, task_id: str, tenant_id: str) -> list[Cancel]:
        """The cancels that end a task, and those below it that no thread would tell.

        A task whose agent has been named as missing ends by itself. If its agent may still make itself known,
        it ends once that is named.
        """
        if not (missing := {agent.agent_id for agent in await self.for_tenant(tenant_id)}):
            return [Cancel(task_id=task_id)]
        cancels, below = list[Cancel](), [(task_id, "", True)]
        while below:
            current, parent_key, is_told_here = below.pop()
            agent_id, waits = "", ()
            with suppress(NotFound):  # it is on its way to its actor: it has delegated nothing yet
                record, task = await read_task(self._runtime, current, tenant_id)
                entry = await read_entry(self._runtime, record, task)
                agent_id = record.attempts[-1].agent_id if record.attempts else ""
                waits = entry.waits if entry is not None else ()
            if is_told_here or agent_id in missing:
                is_absent = agent_id in missing & self._named
                cancels.append(Cancel(task_id=current, parent_key=parent_key, is_absent=is_absent))
            if agent_id in missing - self._named:
                self._cancelled.setdefault(agent_id, set()).add((current, tenant_id))
            below += [
                (child, wait.wait_id, agent_id in missing) for wait in waits if (child := wait.child_task_id)
            ]
        return cancels

    async def _end_cancelled(self) -> None:
        """End the cancelled tasks of agents that were named since; the next look tries again those left."""
        for agent_id in self._named & self._cancelled.keys():
            tasks = self._cancelled[agent_id]
            for task_id, tenant_id in [*tasks]:
                with suppress(NotFound):  # its contents and record were deleted meanwhile
                    await self.cancel(task_id, tenant_id)
                tasks.discard((task_id, tenant_id))

    async def _now(self, tenant_id: str | None = None) -> Mapping[str, MissingAgent]:
        log = self._mesh.log
        missing = [name for name in await log.view(open_agents, tenant_id) if self.is_missing(name)]
        agents = await log.view(missing_agents, tenant_id, missing) if missing else []
        return {agent.agent_id: agent for agent in agents}

    async def _left_missing(self) -> set[str]:
        """The agents that were missing as an earlier process looked last."""
        seqs: dict[str, dict[str | None, int]] = {}
        for event_type in (AGENT_MISSING, AGENT_RETURNED):
            query = EventFilter(event_type=event_type, order="desc", limit=_MAX_NAMED)
            events = await self._mesh.log.query(query)
            seqs[event_type] = {event.agent_id: event.seq or 0 for event in reversed(events)}
        missing, returned = seqs[AGENT_MISSING], seqs[AGENT_RETURNED]
        return {name for name, seq in missing.items() if name and seq > returned.get(name, 0)}

    async def _look(self) -> None:
        missing = await self._now()
        for agent_id, agent in missing.items():
            if agent_id in self._suspects and agent_id not in self._named:
                self._record(AGENT_MISSING, agent)
                self._named.add(agent_id)
        self._suspects = {*missing}
        self._cancelled = {name: tasks for name, tasks in self._cancelled.items() if name in missing}
        await self._end_cancelled()
        for agent_id in [name for name in self._named | self._named_before if not self.is_missing(name)]:
            returned = await self._mesh.log.view(missing_agents, None, [agent_id])
            self._record(AGENT_RETURNED, *(returned or [MissingAgent(agent_id=agent_id, tasks=0)]))
            self._named.discard(agent_id)
            self._named_before.discard(agent_id)

    def _record(self, event_type: str, agent: MissingAgent) -> None:
        task_ids = list(agent.task_ids)
        payload = AgentMissing(agent_id=agent.agent_id, tasks=agent.tasks, task_ids=task_ids)
        self._mesh.tell(event_type, payload, agent_id=agent.agent_id)


class StatusReader:
    """Reads how the open tasks of a mesh are doing."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._log = mesh.log
        self._tenants = mesh.get(Tenants)
        self._admission = mesh.get(Admission)
        self._deployments = mesh.get(Deployments)
        self._held: dict[str, Event] = {}
        self._brokers: dict[str, BrokerStatus] = {}
        mesh.runtime.listen(topics.MESH, self._note, (WORKER_HELD, WORKER_BEGUN))
        mesh.runtime.listen(topics.MESH, self._note_broker, _EDGE_EVENTS)

    def _note(self, event: Event) -> None:
        self._held.pop(event.aggregate_id, None)
        if event.event_type == WORKER_HELD:
            self._held[event.aggregate_id] = event

    def _note_broker(self, event: Event) -> None:
        """Keep what the MQTT edge says of its broker."""
        broker = str(event.fields.get("broker", ""))
        changes: dict[str, Any] = {}
        match event.event_type:
            case "edge.limited":
                changes["limits"] = tuple(map(str, event.fields.get("limits", ())))
            case "edge.session_lost":
                changes["session_lost_at"] = event.time
            case name:
                reason = str(event.fields.get("reason", ""))
                changes |= {"connected": name == "edge.connected", "since": event.time, "reason": reason}
        self._brokers[broker] = self._brokers.get(broker, BrokerStatus(broker=broker)).model_copy(
            update=changes
        )

    async def status(self, tenant_id: str | None = "default") -> MeshStatus:
        """How a tenant's open tasks are doing; None: of all tenants, with the deployments of models."""
        status = await self._log.view(mesh_status, tenant_id)
        missing = await self._mesh.get(MissingAgents).for_tenant(tenant_id)
        uses = tuple(await self._tenants.uses(tenant_id, self._admission.open_of_tenants))
        status = status.model_copy(update={"tenants": uses, "state": self._mesh.state, "missing": missing})
        if tenant_id is not None:
            return status
        fields = {"deployments": self._left_alone(), "projections": tuple(self._log.stalled())}
        fields |= {"held": self._held_now(), "model": self._mesh.get(Model).name}
        fields |= {"brokers": tuple(self._brokers.values()), "left_out": self._left_out()}
        fields |= {"losses": await self._last(NoticedLoss, LossNoticed)}
        return status.model_copy(update={**fields, "emptied": await self._last(EmptiedStore, StoreEmptied)})

    async def _last(self, view: type[ViewT], payload: type[Payload]) -> tuple[ViewT, ...]:
        since = self._mesh.runtime.clock.now() - _LOSS_SHOWN
        query = EventFilter(event_type=payload.event_type, since=since, order="desc", limit=_MAX_LOSSES)
        events = await self._log.query(query)
        return tuple(_read(view, [{"at": event.time, **event.fields} for event in events]))

    def _held_now(self) -> tuple[HeldWorker, ...]:
        oldest = self._mesh.runtime.clock.now() - timedelta(seconds=_HELD_SECONDS)
        self._held = {worker: event for worker, event in self._held.items() if event.time > oldest}
        return tuple(
            _read(HeldWorker, [{"worker": worker, **event.fields} for worker, event in self._held.items()])
        )

    def _left_out(self) -> tuple[LeftOutTool, ...]:
        """The tools that agents of any process lack."""
        agents = (agent for agent in self._mesh.get(Registry).agents() if agent.status != "offline")
        tools = dict.fromkeys(left_out for agent in agents for left_out in agent.left_out_tools())
        return tuple(
            LeftOutTool(toolset=toolset, tool=tool, reason=reason) for toolset, tool, reason in tools
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


def _read(model: type[ViewT], documents: Iterable[dict[str, Any]]) -> Iterator[ViewT]:
    for document in documents:
        with suppress(ValueError):  # an event that another program has published: the names are ours
            yield model.model_validate(document)

"""Assembly: the only place that picks adapters and joins the parts of a mesh."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from meshwright import topics
from meshwright.agent import Agent
from meshwright.capability import Registration
from meshwright.clock import Clock, SystemClock
from meshwright.context.memory import Memory
from meshwright.context.service import CONTEXT_SERVICE, ContextClient, ContextService
from meshwright.context.tokens import count_tokens
from meshwright.errors import ConfigError, HostError, ModelError
from meshwright.events.log import EventLog
from meshwright.events.logger import EventLogger
from meshwright.fleet import load_agents, project_file
from meshwright.host import Host, Subscription
from meshwright.hosts.embedded import EmbeddedHost
from meshwright.hosts.memory import MemoryHost
from meshwright.mesh import Mesh
from meshwright.messages import Event, new_id
from meshwright.models.port import Model, ModelRequest
from meshwright.models.retry import Retrying
from meshwright.models.select import choose_model
from meshwright.orchestration.orchestrator import Orchestrator, task_of
from meshwright.orchestration.presence import Presence, every
from meshwright.orchestration.registry import Registry
from meshwright.prompts import Prompts
from meshwright.run import Employed, Runner, Services
from meshwright.settings import Settings
from meshwright.storage.database import Database
from meshwright.tools.mesh import delegate_tool, remember_tool
from meshwright.tools.tool import Tool, tools_of
from meshwright.tools.toolset import ToolSettings
from meshwright.tracing import NoTracing, Tracing
from meshwright.turns import ActorKind
from meshwright.work import AgentThread, Worker
from meshwright.work.protocol import ORCHESTRATOR
from meshwright.work.thread import thread_of

if TYPE_CHECKING:
    from meshwright.edge.mqtt import MqttEdge

logger = logging.getLogger("meshwright.assembly")
ModelT = TypeVar("ModelT", bound=BaseModel)

FRONTS = ("mesh", EventLogger.agent_id)
SYSTEM = (ORCHESTRATOR.lower(), EventLogger.agent_id, CONTEXT_SERVICE)


def build_mesh(
    settings: Settings,
    *,
    project: Path | None = None,
    agents: Sequence[type[Agent]] | None = None,
    model: Model | None = None,
    clock: Clock | None = None,
    host: Callable[[Database, EventLog, Clock, Tracing | NoTracing], Host] | None = None,
) -> Mesh:
    """Join a mesh from its settings; nothing runs before `start`.

    `agents` replaces the project's `actors` folder, `model` the one that the settings choose, `host` what
    the settings name. Raises ConfigError for files and settings that cannot be used.
    """
    project = project or Path.cwd()
    clock = clock or SystemClock()
    tracing = traced(settings)
    in_memory = settings.host == "memory"
    database = Database(None if in_memory else project / settings.data_dir, durability=settings.durability)
    log = EventLog(database)
    chosen_host = (host or HOSTS[settings.host])(database, log, clock, tracing)
    chosen_model = model or choose_model(
        settings, project_file(project, settings.litellm_config), count_tokens=count_tokens
    )
    services = serve_runs(settings, project, chosen_host, chosen_model, database, tracing)
    registry = Registry(
        clock,
        degraded_after_seconds=settings.degraded_after_seconds,
        offline_after_seconds=settings.offline_after_seconds,
    )
    classes = load_agents(project_file(project, settings.actors_dir)) if agents is None else agents
    employed = employ(classes, tool_settings(settings, project))
    worker = Worker(chosen_host, Runner(services, employed), slots_of(employed, settings.max_concurrency))
    join(chosen_host, registry, worker, employed, settings.max_attempts)
    registrations = [
        *(each.agent.registration() for each in employed.values()),
        *map(system_registration, SYSTEM),
    ]
    presence = Presence(
        chosen_host, log, registry, registrations, heartbeat_seconds=settings.heartbeat_seconds
    )
    edges = (
        [mqtt_edge(settings, project, chosen_host, log, registry, registrations)] if settings.mqtt_url else []
    )
    mesh = Mesh(
        settings=settings,
        host=chosen_host,
        log=log,
        registry=registry,
        model=chosen_model,
        prompts=services.prompts,
        context=services.context,
        memory=services.memory,
        tracing=tracing,
        worker=worker,
        agents=employed,
        parts=(presence, Every(clock, settings.prompt_reload_seconds, services.prompts.refresh), *edges),
    )
    for edge in edges:
        edge.attach(mesh)
    return mesh


def mqtt_edge(
    settings: Settings,
    project: Path,
    host: Host,
    log: EventLog,
    registry: Registry,
    own: Sequence[Registration],
) -> MqttEdge:
    """Make the part that MQTT clients talk to; `own` are the agents that go when this process does."""
    from meshwright.edge.mqtt import MqttEdge

    return MqttEdge(
        settings,
        project,
        host,
        log,
        registry,
        own=[registration.agent_id for registration in own],
        front=ApiFront(settings),
        tell=Announcements(host).tell,
    )


class ApiFront:
    """Reads requests and tells errors as the HTTP API does, for edges that speak something else."""

    def __init__(self, settings: Settings) -> None:
        from meshwright.api.problems import problem_of

        self.problem = problem_of
        self._settings = settings

    async def read(self, body: bytes, model: type[ModelT]) -> ModelT:
        """Read a body into a model, within the API's limits. Raises InvalidInput or TooLarge."""
        from starlette.requests import Request

        from meshwright.api.wire import read_model

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        return await read_model(Request({"type": "http", "headers": []}, receive), model, self._settings)


def build_worker(settings: Settings, *, app_id: str, replica: bool = False) -> Mesh:
    """Join one worker of a mesh on Dapr: the parts that its app has.

    A `replica` of an app that holds event log, API and edge holds none of them. Raises ConfigError for files
    and settings that cannot be used, and for an app that is unknown.
    """
    return build_mesh(settings.model_copy(update={"host": "embedded"}))


def serves_api(app_id: str, *, replica: bool = False) -> bool:
    """Whether that worker holds event log, HTTP API and MQTT edge."""
    return app_id in FRONTS and not replica


def serve_runs(
    settings: Settings,
    project: Path,
    host: Host,
    model: Model,
    database: Database,
    tracing: Tracing | NoTracing,
) -> Services:
    """Make what every run of the mesh uses; what happens to it is announced on the bus."""
    announcements = Announcements(host)
    if isinstance(tracing, Tracing):
        tracing.publish_to(announcements.publish_spans)
    prompts = Prompts(project_file(project, settings.prompt_dir), on_event=announcements.tell)
    retrying = Retrying(model, host.clock, on_retry=announcements.retried)
    return Services(
        host=host,
        model=retrying,
        context=ContextClient(host, retrying, prompts),
        memory=Memory(database, host.clock),
        prompts=prompts,
        tracing=tracing,
        clock=host.clock,
        max_steps=settings.max_steps,
        max_chain=settings.max_chain,
        max_context_tokens=settings.context_max_tokens,
        max_memory_tokens=settings.memory_max_tokens,
        trace_content=settings.trace_content,
    )


def listen(settings: Settings) -> socket:
    """Take the address of the HTTP API, before its mesh starts. Raises ConfigError where it cannot be had."""
    from meshwright.api.server import listen as listen_on

    return listen_on(settings.listen_host, settings.listen_port)


async def serve(mesh: Mesh, listener: socket, on_ready: Callable[[str], None]) -> None:
    """Serve the HTTP API of a running mesh until SIGINT or SIGTERM. `on_ready` gets the URL."""
    from meshwright.api.server import serve as serve_http

    await serve_http(mesh, listener, on_ready)


def embedded_host(database: Database, log: EventLog, clock: Clock, tracing: Tracing | NoTracing) -> Host:
    """The default: this process and one SQLite file."""
    return EmbeddedHost(database, log, clock=clock, tracing=tracing)


def memory_host(database: Database, log: EventLog, clock: Clock, tracing: Tracing | NoTracing) -> Host:
    """For tests: nothing is kept."""
    return MemoryHost(clock, log=log, database=database)


HOSTS: Mapping[str, Callable[[Database, EventLog, Clock, Tracing | NoTracing], Host]] = {
    "embedded": embedded_host,
    "memory": memory_host,
}


def traced(settings: Settings) -> Tracing | NoTracing:
    """The tracing that the settings ask for. Raises ConfigError where what exports spans is not installed."""
    if not settings.trace:
        return NoTracing()
    tracing = Tracing(content=settings.trace_content)
    if settings.otlp_endpoint:
        from meshwright.otel import otlp_spans

        spans = otlp_spans(settings.otlp_endpoint)
        tracing.publish_to(spans)
        tracing.on_close(spans.close)
    return tracing


def join(
    host: Host, registry: Registry, worker: Worker, agents: Mapping[str, Employed], max_attempts: int
) -> None:
    """Make the actors known to the host, and give them their topics."""
    host.attach(worker)
    host.register(ActorKind.of(Orchestrator, registry=registry, max_attempts=max_attempts))
    host.register(ActorKind.of(ContextService, type=CONTEXT_SERVICE))
    host.subscribe(Subscription(topics.TASK_RESULTS, task_of, "settle"))
    for agent_id in agents:
        host.register(ActorKind.of(AgentThread, type=agent_id))
        host.subscribe(Subscription(topics.tasks(agent_id), thread_of, "enqueue"))


def employ(classes: Sequence[type[Agent]], settings: ToolSettings) -> dict[str, Employed]:
    """Make each agent with its tools. Raises ConfigError where two tools of one agent share a name."""
    return {cls.agent_id: _employ(cls(), settings) for cls in classes}


def _employ(agent: Agent, settings: ToolSettings) -> Employed:
    toolsets = [toolset(settings) for toolset in agent.toolsets]
    tools = [tool for owner in (agent, *toolsets) for tool in tools_of(owner)]
    if agent.delegates_to:
        tools.append(delegate_tool(agent.delegates_to))
    if agent.remembers:
        tools.append(remember_tool())
    _check_names(agent, tools)
    return Employed(agent, {tool.name: tool for tool in tools}, toolsets)


def _check_names(agent: Agent, tools: Sequence[Tool]) -> None:
    names = [tool.name for tool in tools]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"agent {agent.agent_id} has two tools named {twice[0]!r}",
            remedy='give one another name: @tool(name="...")',
            field="toolsets",
        )


def tool_settings(settings: Settings, project: Path) -> ToolSettings:
    """What the agents' tools may touch."""
    return ToolSettings(
        workspace=project / settings.workspace, allow_private_addresses=settings.allow_private_addresses
    )


def slots_of(agents: Mapping[str, Employed], default: int) -> Callable[[str], int]:
    """How many tasks each agent works on at once."""

    def slots(agent_id: str) -> int:
        own = agents[agent_id].agent.max_concurrency if agent_id in agents else None
        return default if own is None else own

    return slots


def system_registration(name: str) -> Registration:
    """How a part of the mesh that takes no tasks makes itself known."""
    return Registration(agent_id=name, name=name, kind="system")


class Announcements:
    """What the parts of this process that are no actors have to tell the mesh."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def tell(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """Something happened."""
        self._emit(event_type, topics.MESH, dict(payload))

    def publish_spans(self, trace_id: str, spans: Sequence[Mapping[str, Any]]) -> None:
        """Spans of a trace have finished."""
        self._emit("trace.spans", topics.TRACES, {"spans": list(spans)}, trace_id=trace_id)

    def retried(self, request: ModelRequest, error: ModelError, delay_seconds: float) -> None:
        """A model's call failed and will be made again."""
        fault = {"type": error.code, "message": str(error)}
        self._emit(
            "model.retried",
            topics.TASK_PROGRESS,
            {"error": fault, "delay_seconds": round(delay_seconds, 3), "step": request.metadata.get("step")},
            task_id=request.metadata.get("task_id"),
            agent_id=request.user,
            tenant_id=request.metadata.get("tenant_id", "default"),
        )

    def _emit(self, event_type: str, topic: str, payload: dict[str, Any], **known: Any) -> None:
        aggregate = f"mesh/{self._host.incarnation}"
        event = Event(
            id=f"{aggregate}/{new_id()}",
            event_type=event_type,
            topic=topic,
            time=self._host.clock.now(),
            aggregate_id=aggregate,
            payload=payload,
            **known,
        )
        try:
            self._host.emit([event])
        except (
            HostError
        ) as error:  # told from callbacks that nobody awaits; the host says itself why it ended
            logger.warning("%s is not recorded: %s", event_type, error)


class Every:
    """Does something every so many seconds while the mesh runs."""

    def __init__(self, clock: Clock, seconds: float, work: Callable[[], object]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._work = work
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""

        async def work() -> None:
            self._work()

        self._task = asyncio.create_task(every(self._clock, self._seconds, work))

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

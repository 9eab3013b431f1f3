"""How a mesh is joined from its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from meshwright import topics
from meshwright.agent import Agent
from meshwright.assembly.agents import employ, slots_of, tool_settings
from meshwright.assembly.announcements import Announcements, Every
from meshwright.assembly.edges import mqtt_edge
from meshwright.assembly.hosts import HOSTS, Grounds
from meshwright.assembly.models import start_warnings
from meshwright.assembly.roles import EVERYTHING, Role, role_of
from meshwright.capability import Registration
from meshwright.clock import Clock, SystemClock
from meshwright.context.memory import Memory
from meshwright.context.service import CONTEXT_SERVICE, ContextClient, ContextService
from meshwright.context.tokens import count_tokens
from meshwright.errors import ConfigError
from meshwright.events.log import EventLog
from meshwright.fleet import load_agents, project_file, prompts_brought
from meshwright.host import Host, Subscription
from meshwright.ledger.account import ACCOUNT, BudgetAccount
from meshwright.ledger.accounting import Accounted, emit_on
from meshwright.ledger.budgets import Budgets
from meshwright.ledger.estimate import PriceList
from meshwright.ledger.key_actors import KEY, KEYS, VirtualKey, VirtualKeys
from meshwright.ledger.keys import Keys
from meshwright.mesh import Mesh
from meshwright.models.cache.select import cached
from meshwright.models.named import ByName, NamedPrices, by_name
from meshwright.models.port import Model
from meshwright.models.retry import Retrying
from meshwright.models.select import choose_model, prices_for
from meshwright.orchestration.admission import Admission
from meshwright.orchestration.orchestrator import Orchestrator, task_of
from meshwright.orchestration.presence import Presence
from meshwright.orchestration.registry import Registry
from meshwright.prompts import Prompts
from meshwright.run import Employed, Runner, Services
from meshwright.settings import Settings
from meshwright.storage.database import Database
from meshwright.tracing import NoTracing, Tracing
from meshwright.turns import ActorKind
from meshwright.work import AgentThread, Worker
from meshwright.work.thread import thread_of

MESH_WIDE = (ACCOUNT, KEY, KEYS)
"""Types of actors that the whole mesh asks: they live where it is orchestrated, and take no topic."""


def build_mesh(
    settings: Settings,
    *,
    project: Path | None = None,
    agents: Sequence[type[Agent]] | None = None,
    model: Model | None = None,
    clock: Clock | None = None,
    host: Callable[[Grounds], Host] | None = None,
    role: Role = EVERYTHING,
) -> Mesh:
    """Join a mesh from its settings; nothing runs before `start`.

    `agents` replaces the project's `actors` folder, `model` the one that the settings choose, `host` what
    the settings name; `role` says which part of the mesh this process is. Raises ConfigError for files and
    settings that cannot be used.
    """
    project = project or Path.cwd()
    clock = clock or SystemClock()
    classes = load_agents(project_file(project, settings.actors_dir), project) if agents is None else agents
    own = [each for each in classes if role.employs(each.agent_id)]
    chosen_model = model or answering(settings, project, own)  # before anything is opened: it may be refused
    tracing = traced(settings)
    in_memory = settings.host == "memory"
    database = Database(
        None if in_memory else project / settings.data_dir,
        durability=settings.durability,
        accept_loss=settings.accept_loss,
    )
    log = EventLog(database)
    registry = registry_of(settings, clock)
    kinds = kinds_of(classes, registry, settings)
    elsewhere = [kind for name, kind in kinds.items() if not lives_in(name, role)]
    grounds = Grounds(settings, role, database, log, clock, tracing, elsewhere)
    chosen_host = (host or HOSTS[settings.host])(grounds)
    declared = [*settings.budgets, *(budget for each in classes for budget in each.budgets)]
    budgets = Budgets(declared, chosen_host)
    prompts = prompts_of(settings, project, chosen_host, classes)
    services = serve_runs(settings, project, chosen_host, chosen_model, prompts, budgets, database, tracing)
    employed = employ(own, tool_settings(settings, project), Announcements(chosen_host).overran)
    worker = Worker(chosen_host, Runner(services, employed), slots_of(employed, settings.max_concurrency))
    join(chosen_host, worker, {name: kind for name, kind in kinds.items() if lives_in(name, role)})
    registrations = registrations_of(employed, role)
    presence = Presence(
        chosen_host, log, registry, registrations, heartbeat_seconds=settings.heartbeat_seconds
    )
    edges = (
        [mqtt_edge(settings, project, chosen_host, log, registry, registrations)]
        if settings.mqtt_url and role.is_front
        else []
    )
    admission = admission_of(settings, chosen_host, log)
    counts = [admission] if role.is_front else []
    reload_prompts = Every(clock, settings.prompt_reload_seconds, services.prompts.refresh)
    mesh = Mesh(
        settings=settings,
        host=chosen_host,
        log=log,
        registry=registry,
        admission=admission,
        model=services.model,
        budgets=budgets,
        prompts=services.prompts,
        context=services.context,
        memory=services.memory,
        keys=Keys(chosen_host),
        tracing=tracing,
        worker=worker,
        agents=employed,
        parts=(*counts, presence, reload_prompts, *edges),
        warnings=start_warnings(chosen_model, prompts, classes),
    )
    for edge in edges:
        edge.attach(mesh)
    return mesh


def build_worker(settings: Settings, *, app_id: str, replica: bool = False) -> Mesh:
    """Join one worker of a mesh on Dapr: the parts that its app has.

    A `replica` of an app that holds event log, API and edge holds none of them. Raises ConfigError for files
    and settings that cannot be used, and for an app that is unknown.
    """
    classes = load_agents(project_file(Path.cwd(), settings.actors_dir), Path.cwd())
    role = role_of(app_id, [each.agent_id for each in classes], replica=replica)
    return build_mesh(settings, agents=classes, role=role)


def answering(settings: Settings, project: Path, agents: Sequence[type[Agent]]) -> Model:
    """The model that the settings choose, and beside it those that agents name.

    Where the settings say `offline` no agent is answered by another. Raises ConfigError.
    """
    config_path = project_file(project, settings.litellm_config)
    chosen = choose_model(settings, config_path, count_tokens=count_tokens)
    return chosen if settings.model == "offline" else by_name(chosen, agents, config_path)


def serve_runs(
    settings: Settings,
    project: Path,
    host: Host,
    model: Model,
    prompts: Prompts,
    budgets: Budgets,
    database: Database,
    tracing: Tracing | NoTracing,
) -> Services:
    """Make what every run of the mesh uses; what happens to it is announced on the bus."""
    announcements = Announcements(host)
    if isinstance(tracing, Tracing):
        tracing.publish_to(announcements.publish_spans)
    retrying = Retrying(model, host.clock, on_retry=announcements.retried)
    config_path = project_file(project, settings.litellm_config)
    answering = cached(retrying, settings, database.folder, config_path, host.clock)
    prices = prices_of(model, config_path, settings)
    accounted = Accounted(answering, budgets, prices, emit_on(host))
    return Services(
        host=host,
        model=accounted,
        context=ContextClient(host, accounted, prompts),
        memory=Memory(database, host.clock),
        prompts=prompts,
        tracing=tracing,
        clock=host.clock,
        max_steps=settings.max_steps,
        max_repeats=settings.max_repeats,
        max_chain=settings.max_chain,
        max_context_tokens=settings.context_max_tokens,
        max_memory_tokens=settings.memory_max_tokens,
        trace_content=settings.trace_content,
        stream=settings.stream,
    )


def prices_of(model: Model, config_path: Path, settings: Settings) -> PriceList:
    """What calls of the mesh's model cost, and of those that agents name outright."""
    if not isinstance(model, ByName):
        return prices_for(model, config_path, settings.default_price)
    groups = prices_for(model.otherwise, config_path, settings.default_price)
    return NamedPrices(model, groups, settings.default_price)


def prompts_of(settings: Settings, project: Path, host: Host, agents: Sequence[type[Agent]]) -> Prompts:
    """The prompts of the project; agents that bring their text need no file."""
    folder = project_file(project, settings.prompt_dir)
    return Prompts(folder, brought=prompts_brought(agents), on_event=Announcements(host).tell)


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


def registry_of(settings: Settings, clock: Clock) -> Registry:
    """Who is there, and after how long a silence no more."""
    return Registry(
        clock,
        degraded_after_seconds=settings.degraded_after_seconds,
        offline_after_seconds=settings.offline_after_seconds,
    )


def kinds_of(classes: Sequence[type[Agent]], registry: Registry, settings: Settings) -> dict[str, ActorKind]:
    """Every type of actor of the mesh, by its name, wherever it lives. Raises ConfigError for an agent with
    the name of a part of the mesh."""
    system = [
        ActorKind.of(Orchestrator, registry=registry, max_attempts=settings.max_attempts),
        ActorKind.of(ContextService, type=CONTEXT_SERVICE),
        ActorKind.of(BudgetAccount, type=ACCOUNT),
        ActorKind.of(VirtualKey, type=KEY),
        ActorKind.of(VirtualKeys, type=KEYS),
    ]
    taken = {kind.type for kind in system}
    for each in classes:
        if each.agent_id in taken:
            what = f"agent_id {each.agent_id!r} of {each.__name__} is the name of a part of the mesh"
            raise ConfigError(what, remedy="give the agent another", field="agent_id")
    threads = [
        ActorKind.of(AgentThread, type=each.agent_id, max_tasks=settings.max_thread_tasks) for each in classes
    ]
    return {kind.type: kind for kind in (*system, *threads)}


def admission_of(settings: Settings, host: Host, log: EventLog) -> Admission:
    """What refuses tasks where too many are open."""
    return Admission(
        host, log, max_open_tasks=settings.max_open_tasks, max_thread_tasks=settings.max_thread_tasks
    )


def lives_in(kind: str, role: Role) -> bool:
    """Whether actors of a type live in a worker."""
    if kind in (Orchestrator.__name__, *MESH_WIDE):
        return role.orchestrates
    return role.compresses if kind == CONTEXT_SERVICE else role.employs(kind)


def join(host: Host, worker: Worker, kinds: Mapping[str, ActorKind]) -> None:
    """Make the actors known to the host that live here, and give them their topics."""
    host.attach(worker)
    for name, kind in kinds.items():
        host.register(kind)
        if name == Orchestrator.__name__:
            host.subscribe(Subscription(topics.TASK_RESULTS, task_of, "settle"))
        elif name not in (CONTEXT_SERVICE, *MESH_WIDE):
            host.subscribe(Subscription(topics.tasks(name), thread_of, "enqueue"))


def registrations_of(employed: Mapping[str, Employed], role: Role) -> list[Registration]:
    """How this worker's agents and its part of the mesh make themselves known."""
    agents = [each.agent.registration() for each in employed.values()]
    return [*agents, *map(system_registration, role.parts)]


def system_registration(name: str) -> Registration:
    """How a part of the mesh that takes no tasks makes itself known."""
    return Registration(agent_id=name, name=name, kind="system")

"""Building a mesh: settings, a store, and a list of components."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from meshwright.agents.agent import Agent, AgentTypes
from meshwright.agents.shipped import project_agents
from meshwright.core import topics
from meshwright.core.capability import LLM_SERVICE
from meshwright.core.clock import Clock, SystemClock
from meshwright.core.errors import ConfigError
from meshwright.core.part import Part
from meshwright.core.parts import installed_parts, ours
from meshwright.core.payloads import Payload, by_type
from meshwright.core.plugins import STORES, did_you_mean, installed
from meshwright.core.settings import Settings
from meshwright.core.tracing import NoTracing, Tracing
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.settings import TracingSettings
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.store import Store
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.encryption import Secrets
from meshwright.engine.sql.folder import SECRET_KEY
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.engine.stores.memory import InMemoryStore
from meshwright.engine.stores.sqlite import SqliteStore
from meshwright.mesh.components import Component
from meshwright.mesh.identity.settings import SecretsSettings
from meshwright.mesh.mesh import FRONT, Mesh, ProcessRole
from meshwright.models.port import GivenModel, Model
from meshwright.parts.stack.settings import DaprSettings

WHOLE_MESH = "mesh"
"""The app that is all the others."""


def build_mesh(
    settings: Settings,
    *,
    project: Path | None = None,
    agents: Sequence[type[Agent]] | None = None,
    model: Model | None = None,
    clock: Clock | None = None,
    runtime: Callable[[StoreDeps], Runtime] | None = None,
    role: ProcessRole | None = None,
    parts: Sequence[Part] = (),
) -> Mesh:
    """Build a mesh from its settings; nothing runs before `start`.

    `agents` replaces the project's `actors` folder, `model` the one that the settings choose, `runtime` what
    the settings name; `role` says which apps of the mesh this process runs, by default all; `parts` join
    after those of installed packages. Raises ConfigError for files and settings that cannot be used.
    """
    project = project or Path.cwd()
    agents = load_agents(settings, project, agents)
    make_runtime = _store(_store_name(settings))  # also where another is given: a wrong name is refused
    role, tracing = role or ProcessRole(), _tracing(settings)
    database = choose_database(settings, project)
    log = EventLog(database, keep_days=settings.keep_events_days)
    keys = [key.get_secret_value() for key in settings[SecretsSettings].keys]
    secrets = Secrets(database, keys, settings[SecretsSettings].file or database.folder / SECRET_KEY)
    deps = StoreDeps(settings, role, database, log, clock or SystemClock(), tracing)
    mesh = Mesh(
        settings,
        project=project,
        role=role,
        runtime=(runtime or make_runtime)(deps),
        database=database,
        log=log,
        tracing=tracing,
        cipher=secrets.cipher,
    )
    mesh.provide(secrets)
    mesh.provide(AgentTypes(agents))
    mesh.provide(GivenModel(model))
    kinds = component_types(settings, parts)
    mesh.apps = tuple(app for kind in kinds for app in kind.apps)
    mesh.events = _events(settings, [*ours(), *installed_parts(), *parts])
    _join(mesh, [_added(mesh, kind) for kind in kinds])
    return mesh


def load_agents(
    settings: Settings, project: Path, agents: Sequence[type[Agent]] | None = None
) -> list[type[Agent]]:
    """Agents, by default of the project, and the agents that components make. Raises ConfigError."""
    made = component_agents(settings)
    if agents is None:
        agents = project_agents(settings, project, others=made)
    return [*agents, *made]


def component_agents(settings: Settings) -> list[type[Agent]]:
    """The agents that components make of the settings."""
    return [agent for kind in component_types(settings) for agent in kind.agents(settings)]


def component_types(settings: Settings, parts: Sequence[Part] = ()) -> list[type[Component]]:
    """The components of a mesh in the order in which they join: ours, of installed packages, of `parts`.

    Raises ConfigError for one that cannot be loaded.
    """
    parts = [part for part in (*ours(), *installed_parts(), *parts) if part.component]
    kinds = {part: part.load(part.component) for part in parts if part.is_needed(settings)}
    for part, kind in kinds.items():
        if not (isinstance(kind, type) and issubclass(kind, Component) and kind.name == part.name):
            problem = f"The component of the part {part.name} in {part.module} is no Component of that name"
            raise ConfigError(problem, remedy="Upgrade or uninstall its package")
    return [*kinds.values()]


def build_worker(settings: Settings, *, app_id: str, replica: bool = False) -> Mesh:
    """Build one worker of a mesh on Dapr, which runs one app.

    A `replica` of an app that holds event log, API and edge holds none of them. Raises ConfigError for files
    and settings that cannot be used, and for an app that is unknown.
    """
    agents = project_agents(settings, Path.cwd(), others=component_agents(settings))
    ids = [agent.agent_id for agent in load_agents(settings, Path.cwd(), agents)]
    return build_mesh(settings, agents=agents, role=process_role(settings, app_id, ids, replica=replica))


def process_role(
    settings: Settings, app_id: str, agent_ids: Sequence[str], *, replica: bool = False
) -> ProcessRole:
    """The role of the worker of an app. Raises ConfigError for an app that the mesh does not have."""
    of_components = [app for component in component_types(settings) for app in component.apps]
    apps = dict.fromkeys([WHOLE_MESH, *of_components, *agent_ids, LLM_SERVICE])
    if app_id not in apps:
        remedy = f"There are {', '.join(apps)}"
        raise ConfigError(f"The mesh has no app {app_id!r}", remedy=remedy, field="app")
    only = None if app_id == WHOLE_MESH else frozenset({app_id})
    return ProcessRole(only, is_front=serves_api(app_id, replica=replica))


def serves_api(app_id: str, *, replica: bool = False) -> bool:
    """Whether the worker of an app holds event log, HTTP API and MQTT edge."""
    return app_id in (WHOLE_MESH, FRONT) and not replica


def _store_name(settings: Settings) -> str:
    """The name of the store: with the address of a database it is `postgres`, but for a mesh on Dapr."""
    return "postgres" if settings.database is not None and settings.store == "sqlite" else settings.store


def choose_database(settings: Settings, project: Path) -> Database:
    """The database that the settings choose; nothing is opened yet. Raises ConfigError."""
    folder = project / settings.data_dir
    if settings.database is not None and settings.store != "memory":
        from meshwright.engine.sql.postgres import PostgresDatabase

        address = settings.database.get_secret_value()
        return PostgresDatabase(address, folder, accept_loss=settings.accept_loss)
    in_memory = settings.store == "memory"
    return SqliteDatabase(
        None if in_memory else folder, durability=settings.durability, accept_loss=settings.accept_loss
    )


def _store(name: str) -> Callable[[StoreDeps], Runtime]:
    """The function that makes the runtime over a store. Raises ConfigError for a store that is not known."""
    plugins = {plugin.name: plugin for plugin in installed(STORES)} if name not in RUNTIMES else {}
    if name in plugins:
        return plugins[name].load()
    if name in RUNTIMES:
        return RUNTIMES[name]
    names = [*RUNTIMES, *plugins]
    remedy = did_you_mean(name, names) or f"Known are {', '.join(names)}; a package may bring others"
    raise ConfigError(f"There is no store {name!r}", remedy=remedy, field="store")


def _added(mesh: Mesh, component: type[Component]) -> Component:
    joined = mesh.provide(component(mesh))
    mesh.components.append(joined)
    return joined


def _join(mesh: Mesh, components: Sequence[Component]) -> None:
    """Make the actors of all components known to the runtime, with their topics where they live here."""
    for component in components:
        component.assemble()
    for component in components:
        mesh.log.add(*component.projections())
        if (folder := component.migrations()) is not None:
            mesh.database.migrate(component.name, folder)
    owners: dict[str, str] = {}
    for component in components:
        for kind, app, subscriptions in component.actors():
            owner = owners.setdefault(kind.type, component.name)
            if owner != component.name:
                raise _taken(mesh, kind.type, owner, component.name)
            if mesh.role.runs(app):
                mesh.runtime.register(kind)
                for subscription in subscriptions:
                    mesh.runtime.subscribe(subscription)
            else:
                mesh.runtime.register_remote(kind)
    columns = (column for component in components for column in component.encrypted())
    mesh.get(Secrets).columns = tuple(columns)
    mesh.warnings = tuple(warning for component in components for warning in component.warnings())


def _events(settings: Settings, parts: Sequence[Part]) -> dict[str, type[Payload]]:
    """The payloads of events by type. Raises ConfigError where a part declares another's."""
    owners: dict[str, str] = {}
    kinds: list[type[Payload]] = []
    for part in parts:
        if part.component and part.events and part.is_needed(settings):
            events = part.load(part.events)
            kinds += events
            for event_type in by_type(events):
                if (owner := owners.setdefault(event_type, part.name)) != part.name:
                    raise ConfigError(f"Parts {owner} and {part.name} both declare the event {event_type}")
    return by_type(kinds)


def _taken(mesh: Mesh, name: str, owner: str, other: str) -> ConfigError:
    agent = next((agent for agent in mesh.get(AgentTypes) if agent.agent_id == name), None)
    if agent is None:
        return ConfigError(f"Components {owner} and {other} both have actors of the type {name!r}")
    what = f"agent_id {name!r} of {agent.__name__} is the name of a part of the mesh"
    return ConfigError(what, remedy="Give the agent another one", field="agent_id")


def _tracing(settings: Settings) -> Tracing | NoTracing:
    """The tracing that the settings ask for. Raises ConfigError where what exports spans is not installed."""
    config = settings[TracingSettings]
    if not config.enabled:
        return NoTracing()
    tracing = Tracing(content=config.content)
    if config.otlp_endpoint:
        from meshwright.core.otel import otlp_spans

        spans = otlp_spans(config.otlp_endpoint)
        tracing.publish_to(spans)
        tracing.on_close(spans.close)
    return tracing


class StoreDeps(NamedTuple):
    """The dependencies of a store."""

    settings: Settings
    role: ProcessRole
    database: Database
    log: EventLog
    clock: Clock
    tracing: Tracing | NoTracing

    def runtime(self, store: Store) -> Runtime:
        """The runtime over a store; it records a span of each turn where the settings ask for that."""
        return Runtime(
            store,
            clock=self.clock,
            tracing=self.tracing if self.settings[TracingSettings].turns else None,
            max_record_bytes=self.settings.max_record_bytes,
        )


def sqlite_runtime(deps: StoreDeps) -> Runtime:
    """The default: this process and one SQLite file."""
    return deps.runtime(SqliteStore(deps.database, deps.log))


def _postgres_runtime(deps: StoreDeps) -> Runtime:
    """One of several workers on a PostgreSQL database. Raises ConfigError."""
    from meshwright.engine.sql.postgres import PostgresDatabase
    from meshwright.engine.stores.postgres import PostgresStore

    if not isinstance(deps.database, PostgresDatabase):
        raise ConfigError(
            "The store postgres needs a database",
            remedy="Give its address: mesh up --database postgresql://user@host/name, or MESH_DATABASE",
            field="database",
        )
    return deps.runtime(PostgresStore(deps.database, deps.log))


def _memory_runtime(deps: StoreDeps) -> Runtime:
    """For tests: nothing is kept."""
    store = InMemoryStore(log=deps.log, database=deps.database)
    return Runtime(store, clock=deps.clock, max_record_bytes=deps.settings.max_record_bytes, strict=True)


def _dapr_runtime(deps: StoreDeps) -> Runtime:
    """A worker beside its sidecar, which Dapr's own variables describe. Raises ConfigError."""
    from meshwright.core.plugins import require_sdk

    require_sdk()
    from meshwright.engine.stores.dapr import DaprStore, Options

    settings = deps.settings[DaprSettings]
    return deps.runtime(
        DaprStore(
            Options.from_environment(namespace=settings.namespace, channel=settings.channel),
            clock=deps.clock,
            log=deps.log,
            database=deps.database,
            keeps_log=deps.role.is_front,
            taken_elsewhere=(topics.tasks("#"), topics.TASK_RESULTS),
        )
    )


RUNTIMES: Mapping[str, Callable[[StoreDeps], Runtime]] = {
    "sqlite": sqlite_runtime,
    "postgres": _postgres_runtime,
    "memory": _memory_runtime,
    "dapr": _dapr_runtime,
}

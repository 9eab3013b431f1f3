"""The parts that every mesh has, in the order in which they join: one line for each; and roles of processes.

They are named, not imported: a table is imported with the settings, a component where a mesh is built and,
if it says `needs`, one of these settings is set. Commands, words of events and the things that parts keep are
known without a mesh: ours are imported when asked for, components of installed packages are asked themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from meshwright.core.display import EventWords, Resource
from meshwright.core.errors import NotFound
from meshwright.core.plugins import COMPONENTS, installed

if TYPE_CHECKING:
    from meshwright.component import Component


class BuiltIn(NamedTuple):
    """A part: its name, and where its component and the table of its settings are, as `module:name`.

    `needs` names settings, such as `mqtt.url`: without one of them the component has nothing to do.
    Read without a mesh: the `words` of its events, the `resources` that it keeps, and its `commands` with
    their lines in `mesh --help`, which are in the module `commands` of its package.
    """

    name: str
    component: str = ""
    table: str = ""
    needs: tuple[str, ...] = ()
    words: str = ""
    resources: str = ""
    commands: Mapping[str, str] = {}

    @property
    def package(self) -> str:
        """The package of its component."""
        return self.component.partition(":")[0].rpartition(".")[0]

    def is_needed(self, settings: Any) -> bool:
        """Whether its component joins a mesh with these settings."""
        return not self.needs or any(attrgetter(place)(settings) for place in self.needs)


BUILTIN = (
    BuiltIn("http", table="edges.http.settings:HttpSettings"),
    BuiltIn("watchdog", table="edges.http.settings:WatchdogSettings"),
    BuiltIn("secrets", table="identity.settings:SecretsSettings"),
    BuiltIn("oidc", "identity.component:OidcComponent", "identity.settings:OidcSettings"),
    BuiltIn("dapr", table="edges.settings:DaprSettings"),
    BuiltIn("tools", table="agents.settings:ToolsSettings"),
    BuiltIn("tenants", table="orchestration.settings:TenantsSettings"),
    BuiltIn("presence", table="orchestration.settings:PresenceSettings"),
    BuiltIn("approvals", table="tools.settings:ApprovalsSettings"),
    BuiltIn(
        "audit",
        "events.component:AuditComponent",
        "events.settings:AuditSettings",
        words="events.event_words:WORDS",
    ),
    BuiltIn("tracing", "events.component:TracingComponent", "events.settings:TracingSettings"),
    BuiltIn("prompts", "agents.component:PromptsComponent", "agents.settings:PromptsSettings"),
    BuiltIn(
        "ledger",
        "ledger.component:LedgerComponent",
        "ledger.settings:LedgerSettings",
        resources="ledger.resources:RESOURCES",
        commands={
            "costs": "Sum up what model calls cost.",
            "budgets": "Show budgets and spend, and raise them.",
            "allow": "Allow an agent, a tenant or a tag an amount a day.",
        },
    ),
    BuiltIn(
        "keys",
        "identity.component:KeysComponent",
        "identity.settings:KeysSettings",
        resources="identity.resources:RESOURCES",
        commands={
            "keys": "Manage virtual API keys.",
            "erase": "Erase the contents of tasks for good.",
            "verify": "Verify that the event log is as it was written.",
            "secrets": "Manage the keys that encrypt stored secrets.",
        },
    ),
    BuiltIn(
        "agent_config",
        "services.agent_config.component:AgentConfigs",
        "services.agent_config.settings:AgentConfigSettings",
        resources="services.agent_config.resources:RESOURCES",
        commands={"config": "Change what a mesh does while it runs."},
    ),
    BuiltIn(
        "models",
        "models.component:ModelsComponent",
        "models.settings:ModelsSettings",
        words="models.event_words:WORDS",
        commands={"models": "Show groups, deployments, tags and prices; say where a call goes."},
    ),
    BuiltIn(
        "context",
        "context.component:ContextComponent",
        "context.settings:ContextSettings",
        words="context.event_words:WORDS",
    ),
    BuiltIn(
        "agents",
        "agents.component:AgentsComponent",
        "agents.settings:AgentsSettings",
        words="agents.display:WORDS",
        resources="agents.display:RESOURCES",
    ),
    BuiltIn("people", "events.component:PeopleComponent", "orchestration.settings:PeopleSettings"),
    BuiltIn(
        "orchestration",
        "orchestration.component:OrchestrationComponent",
        "orchestration.settings:OrchestrationSettings",
        words="orchestration.event_words:WORDS",
    ),
    BuiltIn("contents", "run.component:ContentsComponent"),
    BuiltIn("replies", "edges.replies:Courier"),
    BuiltIn("mqtt", "edges.mqtt.edge:MqttComponent", "edges.mqtt.settings:MqttSettings", ("mqtt.url",)),
    BuiltIn("publishers", "edges.cloud_events:PublishersComponent", needs=("dapr.publishers",)),
    BuiltIn(
        "schedules",
        "services.schedules.component:Schedules",
        "services.schedules.spec:SchedulesSettings",
        resources="services.schedules.resources:RESOURCES",
        commands={"schedules": "List schedules, make them, pause, resume and run them."},
    ),
    BuiltIn(
        "webhooks",
        "edges.webhooks.component:WebhooksComponent",
        "edges.webhooks.settings:WebhooksSettings",
        needs=("webhooks.sources", "webhooks.rules", "webhooks.push", "webhooks.notify"),
        commands={"webhooks": "List webhook sources and rules; try a delivery."},
    ),
    BuiltIn(
        "channels",
        "edges.channels.component:Channels",
        "edges.channels.settings:ChannelsSettings",
        needs=("channels",),
    ),
)


def imported(name: str) -> Any:
    """The object of a name like `models.settings:ModelsSettings`."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(f"meshwright.{module}"), attribute)


def brought() -> Iterator[type[Component]]:
    """The components of installed packages. Raises ConfigError for one that cannot be loaded."""
    for plugin in installed(COMPONENTS):
        yield plugin.load()


def event_words() -> Mapping[str, EventWords]:
    """How the events of all parts read, by type; `family.*` stands for the other types of a family."""
    words: dict[str, EventWords] = {}
    for component in brought():
        words |= component.event_words
    for part in BUILTIN:
        words |= imported(part.words) if part.words else {}
    return words


def resource(name: str) -> Resource:
    """The things of a name that some part keeps. Raises NotFound."""
    found: list[Resource] = []
    for component in brought():
        found += component.resources
    for part in BUILTIN:
        found += imported(part.resources) if part.resources else ()
    known = {kept.name: kept for kept in found}
    if name not in known:
        raise NotFound(f"No part of the mesh keeps {name!r}", remedy=f"There are {', '.join(sorted(known))}")
    return known[name]


EVERYWHERE = "*"
"""The place of actors that live in each process of the mesh."""
ORCHESTRATION = "orchestrator"
"""The app in which tasks are orchestrated, and what the whole mesh asks lives."""
FRONT = "event-logger"
"""The app that keeps the event log and serves clients."""


class Part(Protocol):
    """Something that lives as long as the mesh: started after the host, stopped before it."""

    async def start(self) -> None:
        """Begin."""
        ...

    async def stop(self) -> None:
        """End. Idempotent, and called also where the start failed."""
        ...


class Member(Part, Protocol):
    """A component, as the mesh knows it."""

    async def drain(self, seconds: float) -> None:
        """Take nothing new, and let what runs end; after that time leave the rest for the next start."""
        ...


@dataclass(frozen=True, slots=True)
class ProcessRole:
    """Which apps of the mesh this process runs, None for all of them, and whether it is the front."""

    apps: frozenset[str] | None = None
    is_front: bool = True

    def runs(self, app: str) -> bool:
        """Whether what lives in an app lives in this process."""
        if app == FRONT:
            return self.is_front
        return app == EVERYWHERE or self.apps is None or app in self.apps

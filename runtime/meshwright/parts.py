"""The parts that every mesh has, in the order in which they join: one line for each.

They are named, not imported: a table is imported with the settings, a component where a mesh is built and,
if it says `needs`, one of these settings is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any, NamedTuple


class BuiltIn(NamedTuple):
    """A part: its name, and where its component and the table of its settings are, as `module:name`.

    `needs` names settings, such as `mqtt.url`: without one of them the component has nothing to do.
    `toolset` is the class of the toolsets of which each table `[NAME.OTHER]` of the part makes one.
    Read without a mesh: the `words` of its events, the `resources` that it keeps, and its `commands` with
    their lines in `mesh --help`, which are in the module `commands` of its package. They stand there below
    `heading`; a command that is short for another one is in `short_for` as well.
    """

    name: str
    component: str = ""
    table: str = ""
    needs: tuple[str, ...] = ()
    words: str = ""
    resources: str = ""
    toolset: str = ""
    commands: Mapping[str, str] = {}
    heading: str = "Mesh"
    short_for: Mapping[str, str] = {}

    @property
    def package(self) -> str:
        """The package of its component, or of its table where it has none."""
        return (self.component or self.table).partition(":")[0].rpartition(".")[0]

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
    BuiltIn(
        "sandbox",
        "sandbox.component:SandboxComponent",
        "sandbox.settings:SandboxSettings",
        words="sandbox.event_words:WORDS",
    ),
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
            "money": "Show costs and budgets, raise budgets, allow agents an amount a day.",
            "costs": "Sum up what model calls cost.",
            "budgets": "Show budgets and spend, and raise them.",
            "allow": "Allow an agent, a tenant or a tag an amount a day.",
        },
        heading="Work",
        short_for={"costs": "money costs", "budgets": "money budgets", "allow": "money allow"},
    ),
    BuiltIn(
        "keys",
        "identity.component:KeysComponent",
        "identity.settings:KeysSettings",
        resources="identity.resources:RESOURCES",
        commands={
            "keys": "Manage virtual API keys.",
            "erase": "Erase the contents of tasks for good.",
            "secrets": "Manage the keys that encrypt stored secrets.",
        },
        heading="Administration",
    ),
    BuiltIn(
        "agent_config",
        "services.agent_config.component:AgentConfigs",
        "services.agent_config.settings:AgentConfigSettings",
        resources="services.agent_config.resources:RESOURCES",
        commands={"config": "Change what a mesh does while it runs."},
    ),
    BuiltIn(
        "llmops",
        "services.llmops.component:PromptRegistry",
        "services.llmops.settings:LlmopsSettings",
        words="services.llmops.event_words:WORDS",
        resources="services.llmops.resources:RESOURCES",
        commands={"registry": "Register versions of prompts, and say by labels which one is live."},
    ),
    BuiltIn("page", "services.page.component:PageComponent", "services.page.settings:PageSettings"),
    BuiltIn(
        "experiments",
        "services.llmops.experiments:Experiments",
        "services.llmops.experiments_settings:ExperimentsSettings",
        words="services.llmops.experiments_display:WORDS",
        resources="services.llmops.experiments_display:RESOURCES",
        commands={"experiments": "Try variants of prompts, models and agents on live tasks."},
    ),
    BuiltIn("kube", table="toolsets.kube_settings:KubeTables", toolset="toolsets.kube_changes:KubeTools"),
    BuiltIn("money", "services.money.component:TaskMoney"),
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
        "mcp",
        "mcp.component:McpComponent",
        "mcp.settings:McpSettings",
        needs=("mcp",),
        words="mcp.display:WORDS",
        resources="mcp.display:RESOURCES",
        toolset="mcp.toolset:McpToolset",
        commands={
            "mcp": "List MCP servers, add one, sign in, look at its tools and accept those that have changed."
        },
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
    BuiltIn(
        "figures",
        "services.figures.component:FiguresComponent",
        "services.figures.settings:FiguresSettings",
        commands={"workers": "List workers with their leases, slots and tasks."},
    ),
    BuiltIn(
        "trees",
        "services.trees.component:TreesComponent",
        "trees.settings:TreesSettings",
        resources="services.trees.resources:RESOURCES",
        commands={"trees": "List the trees that tasks work on; show what was changed."},
    ),
    BuiltIn("contents", "run.component:ContentsComponent"),
    BuiltIn("replies", "edges.replies:Courier"),
    BuiltIn(
        "sources",
        "edges.sources.component:Sources",
        resources="edges.sources.resources:RESOURCES",
        commands={"channels": "List channels, the agents that answer, and whether each is connected."},
    ),
    BuiltIn(
        "sinks",
        "services.sinks.component:Sinks",
        "services.sinks.settings:SinksSettings",
        needs=("sinks",),
        words="services.sinks.event_words:WORDS",
    ),
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
        "evaluations",
        "services.evaluations.component:Evaluations",
        "services.evaluations.settings:EvaluationsSettings",
        words="services.evaluations.event_words:WORDS",
        resources="services.evaluations.resources:RESOURCES",
        commands={
            "evaluate": "Evaluate an agent on a file of questions, for CI.",
            "evaluations": "List evaluations, show one with its figures, delete one.",
        },
    ),
    BuiltIn(
        "memories",
        "services.memories.component:Memories",
        "services.memories.settings:MemoriesSettings",
        resources="services.memories.resources:RESOURCES",
        commands={"memory": "List what agents remember, edit, promote and forget it."},
    ),
    BuiltIn(
        "maintenance",
        "services.maintenance.component:MaintenanceComponent",
        "services.maintenance.settings:MaintenanceSettings",
        words="services.maintenance.event_words:WORDS",
        commands={
            "backup": "Copy all that a mesh keeps to one file, while it runs.",
            "restore": "Make a data folder of a backup.",
            "migrate": "Move a stopped mesh from SQLite to PostgreSQL, or back.",
            "verify": "Verify the event log, the lists and the tasks of a store.",
            "hold": "Begin no more work in any process of a mesh, before mesh release.",
            "release": "Begin the work of a mesh that is held, restored or drained.",
            "drain": "Begin no more work, and let what runs end.",
        },
    ),
    BuiltIn(
        "retention",
        "services.retention.component:RetentionComponent",
        "services.retention.settings:RetentionSettings",
        commands={"prune": "Have old tasks leave the lists, and erase their contents."},
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
    BuiltIn(
        "k8s",
        table="k8s.settings:K8sSettings",
        commands={
            "k8s": "Write the manifests of a mesh on Kubernetes.",
            "probe": "Ask whether the mesh or worker of this machine is ready.",
        },
    ),
)


def imported(name: str) -> Any:
    """The object of a name like `models.settings:ModelsSettings`."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(f"meshwright.{module}"), attribute)

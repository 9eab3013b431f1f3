"""The parts that every mesh has, in the order in which they join: one line for each.

They are named, not imported: a table is imported with the settings, a component where a mesh is built and,
if it says `needs`, one of these settings is set.
"""

from __future__ import annotations

from importlib import import_module
from operator import attrgetter
from typing import Any, NamedTuple


class BuiltIn(NamedTuple):
    """A part: its name, and where its component and the table of its settings are, as `module:name`.

    `needs` names settings, such as `mqtt.url`: without one of them the component has nothing to do.
    """

    name: str
    component: str = ""
    table: str = ""
    needs: tuple[str, ...] = ()

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
    BuiltIn("audit", "events.component:AuditComponent", "events.settings:AuditSettings"),
    BuiltIn("tracing", "events.component:TracingComponent", "events.settings:TracingSettings"),
    BuiltIn("prompts", "agents.component:PromptsComponent", "agents.settings:PromptsSettings"),
    BuiltIn("ledger", "ledger.component:LedgerComponent", "ledger.settings:LedgerSettings"),
    BuiltIn("keys", "identity.component:KeysComponent", "identity.settings:KeysSettings"),
    BuiltIn(
        "agent_config",
        "services.agent_config.component:AgentConfigs",
        "services.agent_config.settings:AgentConfigSettings",
    ),
    BuiltIn("models", "models.component:ModelsComponent", "models.settings:ModelsSettings"),
    BuiltIn("context", "context.component:ContextComponent", "context.settings:ContextSettings"),
    BuiltIn("agents", "agents.component:AgentsComponent", "agents.settings:AgentsSettings"),
    BuiltIn("people", "events.component:PeopleComponent", "orchestration.settings:PeopleSettings"),
    BuiltIn(
        "orchestration",
        "orchestration.component:OrchestrationComponent",
        "orchestration.settings:OrchestrationSettings",
    ),
    BuiltIn("contents", "run.component:ContentsComponent"),
    BuiltIn("replies", "edges.replies:Courier"),
    BuiltIn("mqtt", "edges.mqtt.component:MqttComponent", "edges.mqtt.settings:MqttSettings", ("mqtt.url",)),
    BuiltIn("publishers", "edges.cloud_events:PublishersComponent", needs=("dapr.publishers",)),
    BuiltIn(
        "schedules", "services.schedules.component:Schedules", "services.schedules.settings:SchedulesSettings"
    ),
    BuiltIn(
        "webhooks",
        "edges.webhooks.component:WebhooksComponent",
        "edges.webhooks.settings:WebhooksSettings",
        needs=("webhooks.sources", "webhooks.rules", "webhooks.push", "webhooks.notify"),
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

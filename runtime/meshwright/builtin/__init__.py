"""The components that every mesh has, in the order in which they join."""

from __future__ import annotations

from meshwright.builtin.agents import AgentsComponent, PromptsComponent
from meshwright.builtin.audit import AuditComponent
from meshwright.builtin.models import ContextComponent, KeysComponent, LedgerComponent, ModelsComponent
from meshwright.builtin.tasks import (
    ContentsComponent,
    MqttComponent,
    OrchestrationComponent,
    PeopleComponent,
    TracingComponent,
)
from meshwright.component import Component
from meshwright.edges.channels.component import Channels
from meshwright.edges.cloud_events import PublishersComponent
from meshwright.edges.replies import Courier
from meshwright.edges.webhooks.component import WebhooksComponent
from meshwright.services.agent_config.component import AgentConfigs
from meshwright.services.schedules.component import Schedules

BUILTIN: tuple[type[Component], ...] = (
    AuditComponent,
    TracingComponent,
    PromptsComponent,
    LedgerComponent,
    KeysComponent,
    AgentConfigs,
    ModelsComponent,
    ContextComponent,
    AgentsComponent,
    OrchestrationComponent,
    PeopleComponent,
    ContentsComponent,
    Courier,
    MqttComponent,
    PublishersComponent,
    Schedules,
    WebhooksComponent,
    Channels,
)

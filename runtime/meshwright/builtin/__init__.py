"""The components that every mesh has, in the order in which they join."""

from __future__ import annotations

from meshwright.builtin.agents import AgentsComponent, PromptsComponent
from meshwright.builtin.models import ContextComponent, KeysComponent, LedgerComponent, ModelsComponent
from meshwright.builtin.tasks import (
    ContentsComponent,
    MqttComponent,
    OrchestrationComponent,
    PeopleComponent,
    TracingComponent,
)
from meshwright.component import Component
from meshwright.edges.replies import Courier

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

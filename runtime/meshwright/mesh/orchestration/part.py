"""The parts of tasks: tenants, presence of agents, orchestration."""

from meshwright.core.part import Part

TENANTS = Part(__name__, "tenants", settings="settings:TenantsSettings")
PRESENCE = Part(__name__, "presence", settings="settings:PresenceSettings")
ORCHESTRATION = Part(
    __name__,
    "orchestration",
    component="component:OrchestrationComponent",
    settings="settings:OrchestrationSettings",
    events="meshwright.core.task_events:EVENTS",
)

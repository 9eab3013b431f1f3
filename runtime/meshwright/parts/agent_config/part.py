"""The part agent_config."""

from meshwright.component import Part

PART = Part(
    __name__,
    "agent_config",
    component="component:AgentConfigComponent",
    settings="settings:AgentConfigSettings",
    events="event_types:EVENTS",
    resources="display:RESOURCES",
    commands={"config": "Change what a mesh does while it runs."},
    heading="Mesh",
)

"""The part agent_models."""

from meshwright.component import Part

PART = Part(
    __name__,
    "agent_models",
    component="component:AgentModelsComponent",
    settings="settings:AgentModelsSettings",
)

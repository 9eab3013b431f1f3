"""The parts of agents."""

from meshwright.core.part import Part

PROMPTS = Part(
    __name__,
    "prompts",
    component="component:PromptsComponent",
    settings="settings:PromptsSettings",
    events="meshwright.agents.prompts.event_types:EVENTS",
)
AGENTS = Part(
    __name__,
    "agents",
    component="component:AgentsComponent",
    settings="settings:AgentsSettings",
    events="event_types:EVENTS",
    resources="display:RESOURCES",
)

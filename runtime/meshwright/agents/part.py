"""The parts of agents."""

from meshwright.core.part import Part

_TOOLS = "meshwright.tools.part"  # below its public package, which imports toolsets
TOOLS = Part(_TOOLS, "tools", settings="settings:ToolsSettings")
APPROVALS = Part(_TOOLS, "approvals", settings="settings:ApprovalsSettings")
PROMPTS = Part(
    __name__,
    "prompts",
    component="component:PromptsComponent",
    settings="settings:PromptsSettings",
    events="meshwright.prompts.event_types:EVENTS",
)
AGENTS = Part(
    __name__,
    "agents",
    component="component:AgentsComponent",
    settings="settings:AgentsSettings",
    events="event_types:EVENTS",
    resources="display:RESOURCES",
)

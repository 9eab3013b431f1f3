"""The part mcp."""

from meshwright.component import Part

PART = Part(
    __name__,
    "mcp",
    component="component:McpComponent",
    settings="settings:McpSettings",
    needs=("mcp",),
    events="event_types:EVENTS",
    resources="display:RESOURCES",
    toolset="tools:McpToolset",
    commands={
        "mcp": "List MCP servers, add one, sign in, look at its tools and accept those that have changed."
    },
    heading="Mesh",
)

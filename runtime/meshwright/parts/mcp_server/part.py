"""The part mcp_server."""

from meshwright.component import Part

PART = Part(
    __name__,
    "mcp_server",
    component="component:McpServerComponent",
    settings="settings:McpEndpointSettings",
    commands={"mcp serve": "Serve the mesh to an MCP client over stdin and stdout."},
)

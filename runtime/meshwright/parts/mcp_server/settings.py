"""[mcp_server]: whether the mesh is an MCP server, and which tools it lists."""

from __future__ import annotations

from pydantic import Field

from meshwright.component import Table


class McpEndpointSettings(Table):
    """[mcp_server]: agents and capabilities as tools of MCP at `/mcp`. Needs the extra `mcp`."""

    enabled: bool = True
    """Whether there is a server. Nothing of it is loaded before its first request."""
    tools: tuple[str, ...] = ("*",)
    """Patterns of the agents and capabilities that are tools, like `review-*`."""
    wait_seconds: float = Field(default=50.0, ge=0, le=300)
    """Seconds that a call waits for its task, for clients that do not know tasks."""

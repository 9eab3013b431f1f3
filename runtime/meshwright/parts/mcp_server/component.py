"""The component of the MCP server."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from meshwright.component import Check, Component, Mesh
from meshwright.core.plugins import install_command
from meshwright.kit import ConfigError
from meshwright.parts.mcp_server.settings import McpEndpointSettings

if TYPE_CHECKING:
    from fastapi import APIRouter

    from meshwright.parts.mcp_server.routes import McpEndpoint


class McpServerComponent(Component):
    """Serves MCP at `/mcp`, where the settings want it and the library is there."""

    name = "mcp_server"
    config: McpEndpointSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._endpoint: McpEndpoint | None = None

    def routes(self) -> list[APIRouter]:
        """`/mcp`, and the metadata of the protected resource where an issuer is configured."""
        if not self.config.enabled or find_spec("mcp") is None:
            return []
        from meshwright.parts.mcp_server.routes import McpEndpoint

        self._endpoint = McpEndpoint(self.mesh, self.config)
        return self._endpoint.routers()

    def checks(self) -> Iterable[Check]:
        """Whether the library is installed, which is an error where a setting asks for the server."""
        return [Check("mcp server", self._check)] if self.config.enabled else []

    async def _check(self) -> str:
        if find_spec("mcp") is not None:
            return "agents are tools of MCP at /mcp"
        if not self.config.model_fields_set:
            return f"off, since mcp is not installed: {install_command('mcp')}"
        remedy = f"{install_command('mcp')}; or set enabled = false in [mcp_server]"
        raise ConfigError("The MCP server takes the package mcp, which is not installed", remedy=remedy)

    async def stop(self) -> None:
        """End the requests that are open."""
        if self._endpoint is not None:
            await self._endpoint.close()

"""The toolset of an MCP server: the tools that its table names and a person has agreed to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from meshwright.mcp.connection import Connection
from meshwright.mcp.consent import Consents, ToolDocument
from meshwright.mcp.settings import McpServerSettings, server_of
from meshwright.mcp.sign_in import SignIns
from meshwright.mcp.tools import McpTool, document_of, is_named
from meshwright.tools.tool import Tool
from meshwright.tools.toolset import Toolset, ToolSettings

_logger = logging.getLogger("meshwright.mcp")


class McpToolset(Toolset):
    """The tools of one MCP server. Agents name it as `mcp.NAME`, or its table names them."""

    name = "mcp"
    kind = "mcp"
    config_type = McpServerSettings
    config: McpServerSettings

    def __init__(self, settings: ToolSettings) -> None:
        super().__init__(settings)
        self._server = server_of(self.table, self.config, settings.project)
        self._connection: Connection | None = None
        self._unlisten: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Start the program, or connect to the address."""
        url = self._server.url
        auth = await self.settings.get(SignIns).provider(self.table, url) if url else None
        self._connection = Connection(self._server, self.settings.project, self.lost, self.changed, auth)
        self._unlisten = self._consents().listen(self.table, self.changed)
        await self._connection.open()

    async def tools(self) -> Sequence[Tool]:
        """The tools that are offered: named in the table, agreed to, and safe."""
        connection = self._connection
        if connection is None:  # before the start none is known
            return ()
        listed = {tool.name: tool for tool in await connection.tools()}
        named = [tool for name, tool in listed.items() if is_named(name, self.config.tools)]
        documents = [ToolDocument.of(tool.name, document_of(tool)) for tool in named]
        consent = await self._consents().offer(self.table, self.config.tools, documents)
        offered: list[Tool] = []
        for tool in named:
            if tool.name in consent.withheld:
                continue
            try:
                offered.append(McpTool(connection, self.table, self.config, tool, self._server))
            except (ValueError, RecursionError) as error:
                _logger.warning("the tool %s of mcp.%s is left out: %s", tool.name, self.table, error)
        return offered

    async def check(self) -> str:
        """How many tools it has, and which of them its table offers."""
        assert self._connection is not None
        names = [tool.name for tool in await self._connection.tools()]
        offered = [name for name in names if is_named(name, self.config.tools)]
        what = ", ".join(offered) if offered else f"none (mesh mcp show {self.table})"
        return f"{self._server.where} answers; of its {len(names)} tools are offered: {what}"

    async def close(self) -> None:
        """End the program, or the connection."""
        self._unlisten()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _consents(self) -> Consents:
        return self.settings.get(Consents)

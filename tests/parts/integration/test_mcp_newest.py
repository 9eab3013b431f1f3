"""Servers of the protocol of July 2026: changes of their tools, structured results, odd schemas."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from meshwright.client import Client
from meshwright.testing import ScriptedModel, tool_call
from tests.parts.unit.test_mcp import Caller, Server, a_tool
from tests.support.http_mesh import http_mesh

TOKEN = "the-admin-token-of-this-test-is-long"
SERVER = '''
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, TextContent, ToolAnnotations

app = MCPServer("shop")
READS = ToolAnnotations(read_only_hint=True)


@app.tool(annotations=READS)
def rows() -> CallToolResult:
    """Find rows."""
    text = TextContent(type="text", text="Found 2 rows.")
    return CallToolResult(content=[text], structured_content={"rows": ["lamp", "rug"]})


def later() -> str:
    """Came later."""
    return "later"


@app.tool(annotations=READS)
async def grow(context: Context) -> str:
    """Get one more tool."""
    app.add_tool(later)
    await context.notify_tools_changed()
    return "grown"


app.run()
'''


async def test_a_tool_that_appears_is_asked_about_and_rows_reach_the_model(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(SERVER)
    model = ScriptedModel([tool_call("own_rows"), tool_call("own_grow")], "Done.")
    table: dict[str, Any] = {"command": sys.executable, "args": [str(script)], "tools": ["*"]}
    table["agents"] = ["caller"]
    settings: dict[str, Any] = {"mcp": {"own": table}, "admin_token": TOKEN}
    async with http_mesh(tmp_path, Caller, script=model, **settings) as api, Client(api.url, TOKEN) as admin:
        await admin.ask("caller", "Look.")
        results = " ".join(message.text for message in model.requests[-1].messages)
        assert "Found 2 rows." in results and '"lamp"' in results
        async with asyncio.timeout(60):
            while not (items := await admin.inbox()):
                await asyncio.sleep(0.05)
    assert "later" in items[0].question


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "object", "properties": {"a": "string"}},
        {"type": "object", "properties": ["a"]},
        {"type": "object", "properties": "a"},
        {"type": "object", "properties": {"a": {"anyOf": {"type": "string"}}}},
        {"type": "string"},
        ["a"],
    ],
)
async def test_one_odd_schema_leaves_out_one_tool(tmp_path: Path, odd: Any) -> None:
    fixable = {"type": "object", "properties": {"a": {"type": "array"}, "required": ["a"]}}
    word = {"type": "object", "properties": {"a": {"type": ["array", "null"]}}, "required": "a"}
    tools = [a_tool("good"), a_tool("odd", inputSchema=odd), a_tool("fixable", inputSchema=fixable)]
    tools.append(a_tool("word", inputSchema=word))
    server, model = Server(tmp_path, "own", tools), ScriptedModel("Done.")
    async with http_mesh(tmp_path, Caller, script=model, mcp={"own": server.settings}) as api:
        await api.client.ask("caller", "Look.")
    [request] = model.requests
    offered = {tool.name: tool.parameters for tool in request.tools}
    assert {"own_good", "own_fixable", "own_word"} <= offered.keys() and "own_odd" not in offered
    for name in ("own_fixable", "own_word"):
        assert offered[name]["required"] == ["a"]
        assert offered[name]["properties"]["a"]["items"] == {}

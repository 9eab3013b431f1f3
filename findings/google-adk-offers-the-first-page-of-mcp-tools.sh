#!/usr/bin/env bash
# google-adk 2.13.0, openai-agents 0.24.0, agent-framework-core 1.23.0 and mcp 2.3.0 (PyPI). 2026-11-29.
# An MCP server lists its tools in two pages: `look`, with a `nextCursor`, then `buy`. ADK's McpToolset, and `list_tools()`
# of the Python SDK's own `Client` and `ClientSession`, ask for the first page alone, and do not say that there is more.
# The OpenAI Agents SDK and Microsoft's Agent Framework follow the cursor.
# Most would expect: the tools of a server are all its tools; the protocol says that a client should treat a result with
# `nextCursor` as incomplete.
# Seen: google-adk: look; mcp Client: look; openai-agents: look, buy; agent-framework: look, buy
# Why an agent runtime meets it: gateways that join servers list hundreds of tools in pages. The agent works, answers
# that it cannot do what the tools of the second page do, and the tools it has change with the order of the list.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > server.py <<'P'
import asyncio

import mcp.types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server


async def list_tools(context, params):
    is_first = params is None or params.cursor is None
    tool = types.Tool(name="look" if is_first else "buy", input_schema={"type": "object", "properties": {}})
    return types.ListToolsResult(tools=[tool], next_cursor="2" if is_first else None)


async def main():
    server = Server("pages", on_list_tools=list_tools)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


asyncio.run(main())
P
cat > t.py <<'P'
import asyncio
import sys

from agent_framework import MCPStdioTool
from agents.mcp import MCPServerStdio
from google.adk.tools.mcp_tool import McpToolset, StdioConnectionParams
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

SERVER = StdioServerParameters(command=sys.executable, args=["server.py"])


async def by_adk():
    toolset = McpToolset(connection_params=StdioConnectionParams(server_params=SERVER, timeout=30))
    tools = await toolset.get_tools()
    await toolset.close()
    return tools


async def by_mcp():
    async with Client(stdio_client(SERVER)) as client:
        return (await client.list_tools()).tools


async def by_agents():
    async with MCPServerStdio({"command": SERVER.command, "args": SERVER.args}, client_session_timeout_seconds=30) as server:
        return await server.list_tools()


async def by_framework():
    async with MCPStdioTool("pages", command=SERVER.command, args=SERVER.args) as server:
        return list(server.functions)


WAYS = {"google-adk": by_adk, "mcp Client": by_mcp, "openai-agents": by_agents, "agent-framework": by_framework}
seen = {name: ", ".join(tool.name for tool in asyncio.run(way())) for name, way in WAYS.items()}
print("; ".join(f"{name}: {tools}" for name, tools in seen.items()))
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check google-adk==2.13.0 openai-agents==0.24.0 \
    agent-framework-core==1.23.0 mcp==2.3.0
seen=$(timeout 120 v/bin/python -W ignore t.py 2>/dev/null)
echo "seen: $seen"
expected="google-adk: look; mcp Client: look; openai-agents: look, buy; agent-framework: look, buy"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi

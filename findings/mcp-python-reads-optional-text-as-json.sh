#!/usr/bin/env bash
# mcp 2.3.0 (PyPI), its server class MCPServer, and fastmcp 4.2.3 beside it. 2026-11-28.
# A tool has a text that may be left out (`text: str | None = None`). The SDK reads such an argument as JSON before it
# validates it: the text "null" arrives as None, and a text that happens to be a JSON object or list is refused as "no
# valid string". With `text: str`, and in fastmcp, each text arrives as it was sent.
# Most would expect: the schema that the tool lists says string or null, so a string is taken as it is.
# Seen: mcp optional: 'plain' 'plain', 'null' None, '{"a": 1}' refused, '[]' refused; mcp required: each as sent;
#   fastmcp optional: each as sent
# Why an agent runtime meets it: agents write files, comments and bodies of requests by such tools, and these are often
# JSON. The model sent what the schema asks for and is told that it did not; it tries again until its limit.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio

import fastmcp
import mcp
from mcp.server.mcpserver import MCPServer

TEXTS = ("plain", "null", '{"a": 1}', "[]")
sdk, other, arrived = MCPServer("sdk"), fastmcp.FastMCP("other"), []


@sdk.tool()
@other.tool
def optional(text: str | None = None) -> str:
    """Write a text."""
    arrived.append(text)
    return "written"


@sdk.tool()
def required(text: str) -> str:
    """Write a text."""
    arrived.append(text)
    return "written"


async def outcomes(client, tool, **options):
    results = []
    for text in TEXTS:
        arrived.clear()
        await client.call_tool(tool, {"text": text}, **options)
        results.append(f"{text!r} {arrived[0]!r}" if arrived else f"{text!r} refused")
    as_sent = results == [f"{text!r} {text!r}" for text in TEXTS]
    return "each as sent" if as_sent else ", ".join(results)


async def main():
    async with mcp.Client(sdk) as client:
        for tool in ("optional", "required"):
            print(f"mcp {tool}: {await outcomes(client, tool)}", end="; ")
    async with fastmcp.Client(other) as client:
        print(f"fastmcp optional: {await outcomes(client, 'optional', raise_on_error=False)}")


asyncio.run(main())
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check mcp==2.3.0 fastmcp==4.2.3
seen=$(timeout 60 v/bin/python t.py 2>/dev/null)
echo "seen: $seen"
expected="mcp optional: 'plain' 'plain', 'null' None, '{\"a\": 1}' refused, '[]' refused; mcp required: each as sent; fastmcp optional: each as sent"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi

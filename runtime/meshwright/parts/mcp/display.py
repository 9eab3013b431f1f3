"""How MCP servers are shown."""

from __future__ import annotations

from meshwright.component import Column, Resource
from meshwright.core.display import left_out_text
from meshwright.kit import Document


def _offered(server: Document) -> str:
    withheld = [
        f"{tool['name']} (refused)" if tool.get("refused_by") else tool["name"] for tool in server["withheld"]
    ]
    waiting = f"; withheld: {', '.join(withheld)}" if withheld else ""
    left_out = {tool["name"]: tool["reason"] for tool in server.get("left_out", ())}
    return f"{', '.join(server['accepted']) or 'none yet'}{waiting}{left_out_text(left_out)}"


def _patterns(server: Document) -> str:
    return ", ".join(server["tools"]) or "none"


MCP_SERVERS = Resource(
    "mcp",
    "/mcp",
    (
        Column("server", "id"),
        Column("tools", write=_patterns, cut=3),
        Column("agreed to", write=_offered, cut=2),
        Column("where", "where", cut=1),
    ),
    help="""List MCP servers, add one, sign in, look at its tools and accept those that have changed.

    The tools of a server are offered to agents as its table [mcp.NAME] says.
    """,
    empty="there are no tables [mcp.NAME]; mesh mcp add writes one",
    id="NAME",
)
RESOURCES = (MCP_SERVERS,)

"""How MCP servers and the events of their tools read."""

from __future__ import annotations

from collections.abc import Mapping

from meshwright.core.display import Column, Document, EventWords, Resource

FACTS: Mapping[str, str] = {"mcp.*": "server tool is_new by"}
PAYLOADS: Mapping[str, str] = {
    "mcp.tool_withheld": "server, tool, is_new",
    "mcp.tool_accepted mcp.tool_refused": "server, tool, by, reason",
    "mcp.tool_released": "server, tool",
    "mcp.signed_in mcp.signed_out": "server",
}


def _withheld(payload: Document, event: Document) -> tuple[str, ...]:
    server, tool = payload.get("server", "?"), payload.get("tool", "?")
    why = "is new" if payload.get("is_new") else "has changed"
    return (f"{tool} of {server} {why} and is withheld", "mesh inbox")


def _decided(payload: Document, event: Document) -> tuple[str, ...]:
    tool, server = payload.get("tool", "?"), payload.get("server", "?")
    done = event["event_type"].rpartition("_")[2]
    return (f"{tool} of {server} is {done} by {payload.get('by') or 'a person'}", payload.get("reason", ""))


def _released(payload: Document, event: Document) -> tuple[str, ...]:
    tool, server = payload.get("tool", "?"), payload.get("server", "?")
    return (f"{tool} of {server} is withheld no longer: the server has it as before, or not at all",)


def _signed(payload: Document, event: Document) -> tuple[str, ...]:
    what = "has tokens of" if event["event_type"] == "mcp.signed_in" else "has forgotten the tokens of"
    return (f"the mesh {what} {payload.get('server', '?')}",)


WORDS: Mapping[str, EventWords] = {
    "mcp.signed_in": EventWords("mcp", _signed),
    "mcp.signed_out": EventWords("mcp", _signed),
    "mcp.tool_withheld": EventWords("mcp", _withheld),
    "mcp.tool_accepted": EventWords("mcp", _decided),
    "mcp.tool_refused": EventWords("mcp", _decided),
    "mcp.tool_released": EventWords("mcp", _released),
}


def _offered(server: Document) -> str:
    withheld = [
        f"{tool['name']} (refused)" if tool.get("refused_by") else tool["name"] for tool in server["withheld"]
    ]
    waiting = f"; withheld: {', '.join(withheld)}" if withheld else ""
    return f"{', '.join(server['accepted']) or 'none yet'}{waiting}"


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

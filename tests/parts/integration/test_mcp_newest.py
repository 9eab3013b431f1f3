"""Servers of the protocol of July 2026: changes of their tools, structured results, odd schemas."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from meshwright.agents.loader import BoundAgents
from meshwright.client import Client
from meshwright.parts.mcp import connection
from meshwright.testing import ScriptedModel, tool_call
from tests.parts.unit.test_mcp import Caller, Server, a_tool
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import mesh, run

AGENT = """
from meshwright import Agent, Capability


class Caller(Agent):
    agent_id = "caller"
    capabilities = (Capability("calling"),)
    prompt_text = "You call tools."
"""
TOKEN = "the-admin-token-of-this-test-is-long"
SERVER = '''
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, SamplingMessage, TextContent, ToolAnnotations

app = MCPServer("shop")
READS = ToolAnnotations(read_only_hint=True)


@app.tool(annotations=READS)
def rows() -> CallToolResult:
    """Find rows."""
    text = TextContent(type="text", text="Found 2 rows.")
    return CallToolResult(content=[text], structured_content={"rows": ["lamp", "rug"]})


@app.tool(annotations=READS)
async def colour(context: Context) -> str:
    """Ask for a model."""
    question = SamplingMessage(role="user", content=TextContent(type="text", text="Name a colour."))
    return str(await context.session.create_message(messages=[question], max_tokens=50))


@app.tool(annotations=READS)
async def folders(context: Context) -> str:
    """Ask for folders."""
    return str(await context.session.list_roots())


def later() -> str:
    """Came later."""
    return "later"


@app.tool(annotations=READS)
async def count(context: Context) -> str:
    """Count."""
    for number in range(1, 4):
        await context.report_progress(number, 3, f"shelf {number}")
    return "counted"


@app.tool(annotations=READS)
async def grow(context: Context) -> str:
    """Get one more tool."""
    app.add_tool(later)
    await context.notify_tools_changed()
    return "grown"


{REFUSAL}
app.run()
'''
REFUSALS = {
    "is not there": 'del app._lowlevel_server._request_handlers["subscriptions/listen"]',
    "is refused": """
from mcp import MCPError

async def refuse(context, params):
    raise MCPError(-32601, "not here")

handlers = app._lowlevel_server._request_handlers
entry = handlers["subscriptions/listen"]
handlers["subscriptions/listen"] = type(entry)(entry.params_type, refuse)
""",
}
"""What makes the server one whose changes cannot be listened for."""


async def test_a_tool_that_appears_is_asked_about_and_rows_reach_the_model(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(SERVER.replace("{REFUSAL}", ""))
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


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_server_that_tells_of_no_changes_is_listed_again(
    tmp_path: Path, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LIST_SECONDS", 0.2)
    script = tmp_path / "shop.py"
    script.write_text(SERVER.replace("{REFUSAL}", REFUSALS[refusal]))
    model = ScriptedModel(tool_call("own_grow"), "Done.")
    table = {"command": sys.executable, "args": [str(script)], "tools": ["*"], "agents": ["caller"]}
    settings: dict[str, Any] = {"mcp": {"own": table}, "admin_token": TOKEN}
    async with http_mesh(tmp_path, Caller, script=model, **settings) as api, Client(api.url, TOKEN) as admin:
        await admin.ask("caller", "Look.")
        async with asyncio.timeout(60):
            while not (items := await admin.inbox()):
                await asyncio.sleep(0.05)
        events = await admin.events(event_type="toolset.changed")
    assert "later" in items[0].question
    assert len(events) == 1, "lists that are the same change nothing"


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


async def test_a_server_that_wants_a_model_or_folders_gets_a_remedy_instead(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(SERVER.replace("{REFUSAL}", ""))
    model = ScriptedModel([tool_call("own_colour"), tool_call("own_folders")], "Done.")
    table = {"command": sys.executable, "args": [str(script)], "tools": ["*"], "agents": ["caller"]}
    async with http_mesh(tmp_path, Caller, script=model, mcp={"own": table}) as api:
        await api.client.ask("caller", "Look.")
    results = [message.text for message in model.requests[-1].messages if message.role == "tool"]
    assert len(results) == 2
    assert all("Servers get neither a model" in result for result in results), results


async def test_progress_of_a_call_is_shown_in_the_events_of_its_task(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(SERVER.replace("{REFUSAL}", ""))
    model = ScriptedModel(tool_call("own_count"), "Done.")
    table = {"command": sys.executable, "args": [str(script)], "tools": ["*"], "agents": ["caller"]}
    settings: dict[str, Any] = {"mcp": {"own": table}, "admin_token": TOKEN}
    async with http_mesh(tmp_path, Caller, script=model, **settings) as api, Client(api.url, TOKEN) as admin:
        receipt = await admin.submit(agent_id="caller", payload={"text": "Look."})
        live = [event async for event in admin.follow(receipt.task_id)]
        stored = await admin.events(task_id=receipt.task_id)
        shown = await mesh("events", "--task", receipt.task_id, "--url", api.url, MESH_ADMIN_TOKEN=TOKEN)
        page = await mesh("task", receipt.task_id, "--url", api.url, MESH_ADMIN_TOKEN=TOKEN)
    texts = [f"count: shelf {number} ({number} of 3)" for number in (1, 2, 3)]
    for events in (live, stored):
        assert [event.fields["text"] for event in events if event.event_type == "run.progress"] == texts
    assert all(text in shown.out for text in texts), shown
    assert texts[-1] in page.out and texts[0] not in page.out, page


NO_OBJECT = {"type": "object", "properties": {"a": "string"}}
LONG = "much to say " * 2_000


async def shown(api: Api) -> list[str]:
    """What the commands say of tools that are left out."""
    commands = (("status",), ("mcp", "list"), ("mcp", "show", "own"), ("agents", "show", "caller"))
    environment = {"MESH_ADMIN_TOKEN": TOKEN, "COLUMNS": "1000"}
    done = [await mesh(*command, "--url", api.url, **environment) for command in commands]
    assert [one.status for one in done] == [0] * len(commands), done
    return [one.out for one in done]


async def test_tools_that_are_left_out_are_named_with_the_reason(tmp_path: Path) -> None:
    tools = [a_tool("good"), a_tool("other"), a_tool("odd", inputSchema=NO_OBJECT)]
    tools += [a_tool("long", description=LONG), a_tool("unnamed", inputSchema=NO_OBJECT)]
    server, model = Server(tmp_path, "own", tools, tools=["[!u]*"]), ScriptedModel("One.", "Two.")
    settings: dict[str, Any] = {"mcp": {"own": server.settings}, "admin_token": TOKEN}
    odd, long = "its schema.properties.a is str, not a schema", "its description has over 16,000 characters"
    async with http_mesh(tmp_path, Caller, script=model, **settings) as api, Client(api.url, TOKEN) as admin:
        await admin.ask("caller", "Look.")
        for out in await shown(api):
            assert odd in out and long in out and "unnamed" not in out, out
        server.has([a_tool("good"), a_tool("other", inputSchema=NO_OBJECT), a_tool("odd")])
        [shared] = api.mesh.get(BoundAgents)["caller"].toolsets
        shared.toolset.changed()
        async with asyncio.timeout(60):
            while "other (" not in shared.status:
                await asyncio.sleep(0.02)
        for out in await shown(api):
            assert "other" in out and odd in out and long not in out, out
        status = (await admin.status()).left_out
        assert [(one.toolset, one.tool, one.reason) for one in status] == [("mcp.own", "other", odd)]


def test_a_check_of_the_project_names_the_tools_that_it_would_leave_out(tmp_path: Path) -> None:
    server = Server(tmp_path, "own", [a_tool("good"), a_tool("odd", inputSchema=["a"])])
    command, arguments = server.settings["command"], server.settings["args"]
    (tmp_path / "mesh.toml").write_text(
        f'[mcp.own]\ncommand = "{command}"\nargs = {arguments}\ntools = ["*"]\nagents = ["*"]\n'
    )
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "caller.py").write_text(AGENT)
    out = run("check", "--trust", cwd=tmp_path).stdout
    assert "of its 2 tools are offered: good; left out: odd (" in out, out
    assert any(line.startswith("warn  mcp.own") for line in out.splitlines()) and "pydantic" not in out, out

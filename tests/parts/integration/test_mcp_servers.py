"""Agents that call the tools of MCP servers as others have published them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from meshwright import Agent, Capability
from meshwright.agents.loader import BoundAgents
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from meshwright.testing.mesh import MeshUnderTest
from tests.support.services import unavailable

INSTALL = Path(__file__).parents[2] / "support" / "mcp" / "install"


class Caller(Agent):
    """Calls the tools of servers."""

    agent_id = "caller"
    capabilities = (Capability("calling"),)
    prompt_text = "You call tools."
    remembers = False
    toolsets = ("mcp.files", "mcp.everything", "mcp.git", "mcp.time", "mcp.fetch")


@pytest.fixture(scope="module")
def servers() -> Path:
    """The folder with the servers; skips where they are not installed."""
    found = subprocess.run([sys.executable, INSTALL, "--where"], capture_output=True, text=True, check=False)
    if found.returncode:
        unavailable("needs MCP servers, which make mcp installs")
    return Path(found.stdout.strip())


async def ready(mesh: MeshUnderTest) -> None:
    """Have the servers started, however long their programs take."""
    toolsets = mesh.mesh.get(BoundAgents)["caller"].toolsets
    while any(toolset.state in ("idle", "starting") for toolset in toolsets):
        await asyncio.gather(*(toolset.use() for toolset in toolsets))


@pytest.fixture
async def page_url() -> AsyncIterator[str]:
    """The address of a page on this machine."""

    async def greet(request: web.Request) -> web.Response:
        text = "<html><body><article><p>This page greets you.</p></article></body></html>"
        return web.Response(text=text, content_type="text/html")

    application = web.Application()
    application.router.add_get("/page", greet)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/page"
    await runner.cleanup()


def write_mcp_json(folder: Path, servers: Path, tree: Path) -> None:
    packages = servers / "node_modules" / "@modelcontextprotocol"
    commands = {
        "files": ["node", packages / "server-filesystem" / "dist" / "index.js", tree],
        "everything": ["node", packages / "server-everything" / "dist" / "index.js"],
        "git": [servers / "bin" / "mcp-server-git", "--repository", tree],
        "time": [servers / "bin" / "mcp-server-time", "--local-timezone", "UTC"],
        "fetch": [servers / "bin" / "mcp-server-fetch", "--ignore-robots-txt", "--allow-private-ips"],
    }
    known = {
        name: {"command": str(program), "args": [*map(str, arguments)]}
        for name, (program, *arguments) in commands.items()
    }
    (folder / ".mcp.json").write_text(json.dumps({"mcpServers": known}))


def results(model: ScriptedModel) -> list[str]:
    return [message.text for message in model.requests[-1].messages if message.role == "tool"]


async def approve(mesh: MeshUnderTest, tool: str) -> None:
    [question] = await mesh.questions()
    assert (question.subject or {})["tool"] == tool
    await mesh.answer(question, {"approve": True})


async def test_servers_for_files_git_time_fetch_and_everything_work(
    tmp_path: Path, servers: Path, page_url: str
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.txt").write_text("hello\n")
    subprocess.run(["git", "init", "-q", tree], check=True)
    write_mcp_json(tmp_path, servers, tree)
    at_nine = {"source_timezone": "Europe/Berlin", "time": "09:00", "target_timezone": "Asia/Tokyo"}
    model = ScriptedModel(
        [
            tool_call("files_read_text_file", path=f"{tree}/a.txt"),
            tool_call("files_read_text_file", path="/etc/passwd"),
            tool_call("everything_get-sum", a=2, b=3),
            tool_call("everything_get-tiny-image"),
            tool_call("git_git_status", repo_path=str(tree)),
            tool_call("time_convert_time", **at_nine),
            tool_call("fetch_fetch", url=page_url),
        ],
        tool_call("files_write_file", path=f"{tree}/b.txt", content="written"),
        "Done.",
    )
    tables = {
        "files": {"tools": ["read_text_file", "write_file"], "origin": "workspace"},
        "everything": {"tools": ["get-*"]},
        "git": {"tools": ["git_status"]},
        "time": {"tools": ["*"]},
        "fetch": {"tools": ["fetch"]},
    }
    async with mesh_for(Caller, model=model, project=tmp_path, mcp=tables) as mesh:
        toolsets = mesh.mesh.get(BoundAgents)["caller"].toolsets
        await ready(mesh)  # five programs begin at once
        receipt = await mesh.submit(agent_id="caller", payload={"text": "Go."})
        await approve(mesh, "files_write_file")
        outcome = await mesh.outcome(receipt.task_id)
        states = [toolset.status for toolset in toolsets]
    text, denied, total, picture, status, converted, page, written = results(model)
    assert outcome.text == "Done."
    assert all(state.startswith("ready") for state in states)
    assert text == "hello\n"
    assert "Access denied" in denied
    assert "5" in total
    assert "[file get-tiny-image-2.png: image/png" in picture
    assert "a.txt" in status
    assert "Tokyo" in converted
    assert "This page greets you." in page
    assert "Successfully wrote" in written
    assert (tree / "b.txt").read_text() == "written"


async def test_older_server_that_asks_is_declined_and_one_with_tasks_leaves_them_out(
    tmp_path: Path, servers: Path
) -> None:
    write_mcp_json(tmp_path, servers, tmp_path)
    model = ScriptedModel(tool_call("everything_trigger-elicitation-request"), "Done.")
    names = ["trigger-elicitation-request", "simulate-research-query"]
    tables = {"everything": {"tools": names, "approve": "never"}}
    asker = type("Asker", (Caller,), {"toolsets": ("mcp.everything",)})
    async with mesh_for(asker, model=model, project=tmp_path, mcp=tables) as mesh:
        await ready(mesh)
        await mesh.ask("caller", "Go.")
        tools = {*mesh.mesh.get(BoundAgents)["caller"].tools}
    [said] = results(model)
    assert "declined to provide" in said
    assert tools == {"everything_trigger-elicitation-request"}, "the other one runs only as a task"

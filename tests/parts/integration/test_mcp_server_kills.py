"""MCP clients of a mesh that is killed in the middle of a call, over HTTP and over stdin and stdout."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters, types
from mcp.client.extension import advertise
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from tests.support.running_mesh import ROOT, mesh_up

AGENT = """
from pydantic import BaseModel

from meshwright import Agent, Capability, Run


class Size(BaseModel):
    size: str


class Orders(Agent):
    agent_id = "orders"
    capabilities = (Capability("ordering"),)
    remembers = False

    async def run(self, run: Run) -> str:
        answer = await run.ask_person("Which size?", shape=Size)
        return f"ordered {answer.size}"
"""
TASKS, VERSION = "io.modelcontextprotocol/tasks", "2026-07-28"


class _TaskResult(types.Result):
    """What the server says of a task."""

    task_id: str = ""
    status: str = ""
    input_requests: dict[str, Any] | None = None
    result: dict[str, Any] | None = None


class _TaskParams(types.RequestParams):
    task_id: str
    input_responses: dict[str, Any] | None = None


class _TaskRequest(types.Request[_TaskParams, str]):
    """A request of the extension."""

    name_param = "taskId"


async def sent(client: Client, method: str, params: Any) -> _TaskResult:
    is_call = isinstance(params, types.CallToolRequestParams)
    request: Any = (
        types.CallToolRequest(params=params) if is_call else _TaskRequest(method=method, params=params)
    )
    return await client.session.send_request(request, _TaskResult)


def setup(folder: Path) -> dict[str, str]:
    (folder / "actors").mkdir()
    (folder / "actors/orders.py").write_text(AGENT)
    return {"MESH_AGENTS__DIR": str(folder / "actors"), "MESH_MODELS__ADAPTER": "offline"}


async def test_task_of_a_call_outlives_kill_9_and_has_one_outcome(tmp_path: Path) -> None:
    """Its client has the id alone: it asks and answers the mesh that comes back, which is killed again."""
    environment, task_id = setup(tmp_path), ""
    params = types.CallToolRequestParams(name="orders", arguments={"text": "one"})
    for step in ("call", "answer", "result"):
        async with (
            mesh_up(tmp_path / "data", **environment) as mesh,
            httpx2.AsyncClient(timeout=120) as http,
            Client(
                streamable_http_client(f"{mesh.url}/mcp", http_client=http),
                cache=None,
                extensions=[advertise(TASKS)],
            ) as client,
        ):
            if step == "call":
                task_id = (await sent(client, "tools/call", params)).task_id
                await mesh.kill()
                continue
            wanted = "input_required" if step == "answer" else "completed"
            while (task := await sent(client, "tasks/get", _TaskParams(task_id=task_id))).status != wanted:
                await asyncio.sleep(0.1)
            if step == "answer":
                [key] = task.input_requests or ()
                answers = {key: {"action": "accept", "content": {"size": "L"}}}
                await sent(client, "tasks/update", _TaskParams(task_id=task_id, input_responses=answers))
                await mesh.kill()
                continue
            assert task.result and task.result["content"] == [{"type": "text", "text": "ordered L"}]
            assert [row.task_id for row in await mesh.client.tasks()] == [task_id]


async def test_call_over_stdio_outlives_kill_9_and_is_one_task(tmp_path: Path) -> None:
    """The bridge sends the call again to the mesh that comes back, which knows it."""
    environment = setup(tmp_path)
    data = tmp_path / "data"
    async with mesh_up(data, **environment) as first:
        port = first.url.rpartition(":")[2]
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-m", "meshwright.cli", "mcp", "serve", "--url", first.url],
            cwd=ROOT,
        )
        asked, answered = asyncio.Event(), asyncio.Event()

        async def answer(context: Any, params: Any) -> types.ElicitResult:
            asked.set()
            await answered.wait()
            return types.ElicitResult(action="accept", content={"size": "S"})

        async with Client(
            stdio_client(parameters, errlog=sys.stderr), elicitation_callback=answer, cache=None, mode=VERSION
        ) as client:
            assert "orders" in {tool.name for tool in (await client.list_tools()).tools}
            calling = asyncio.create_task(client.call_tool("orders", {"text": "one"}))
            await asyncio.wait(
                {calling, asyncio.ensure_future(asked.wait())}, return_when=asyncio.FIRST_COMPLETED
            )
            await first.kill()
            answered.set()  # there is no mesh to answer
            async with mesh_up(data, "--port", port, **environment) as second:
                result = await calling
                assert isinstance(result, types.CallToolResult)
                assert result.content[0].model_dump()["text"] == "ordered S"
                assert len(await second.client.tasks()) == 1
                with pytest.raises(MCPError, match="Unknown tool"):
                    await client.call_tool("ghost", {})


async def test_command_serves_a_mesh_of_its_own(tmp_path: Path) -> None:
    environment = setup(tmp_path)
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "meshwright.cli", "mcp", "serve", "--data", str(tmp_path / "data")],
        cwd=ROOT,
        env=environment,
    )

    async def answer(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"size": "M"})

    async with Client(
        stdio_client(parameters, errlog=sys.stderr), elicitation_callback=answer, cache=None, mode=VERSION
    ) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert "orders" in tools and "mesh_get_task" in tools
        result = await client.call_tool("orders", {"text": "one"})
        assert isinstance(result, types.CallToolResult)
        assert result.content[0].model_dump()["text"] == "ordered M"
    async with Client(stdio_client(parameters, errlog=sys.stderr), cache=None, mode="legacy") as client:
        result = await client.call_tool("orders", {"text": "one"})
        assert isinstance(result, types.CallToolResult)
        task_id = result.content[0].model_dump()["text"].split()[1]
        answers = {"task_id": task_id, "text": '{"size": "XL"}'}
        result = await client.call_tool("mesh_answer_task", answers)
        assert isinstance(result, types.CallToolResult)
        assert result.content[0].model_dump()["text"] == "ordered XL"

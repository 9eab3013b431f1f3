"""A mesh whose agent calls an agent of another mesh by MCP: through kills, questions and cancels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from meshwright.client import Client
from tests.support.fake_openai import FakeOpenAI
from tests.support.fake_provider import tool_call
from tests.support.running_mesh import RunningMesh, mesh_up

CALLER = """
from meshwright import Agent, Capability


class Caller(Agent):
    agent_id = "caller"
    capabilities = (Capability("calling"),)
    prompt_text = "You call tools."
    remembers = False
    toolsets = ("mcp.far",)
"""
ORDERS = """
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


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(120):
        while not (seen := await look()):
            await asyncio.sleep(0.1)
        return seen


def agents(folder: Path, source: str) -> dict[str, str]:
    folder.mkdir()
    (folder / "agent.py").write_text(source)
    return {"MESH_AGENTS__DIR": str(folder)}


@asynccontextmanager
async def near_mesh(folder: Path, far_url: str, provider: FakeOpenAI) -> AsyncIterator[RunningMesh]:
    environment = {
        "MESH_AGENTS__DIR": str(folder / "near-agents"),
        "LITELLM_BASE_URL": provider.url,
        "MESH_MCP__FAR__URL": f"{far_url}/mcp",
        "MESH_MCP__FAR__TOOLS": '["orders"]',
        "MESH_MCP__FAR__APPROVE": "never",
    }
    async with mesh_up(folder / "near", **environment) as mesh:
        yield mesh


async def test_call_of_another_mesh_outlives_kill_9_of_both_and_a_person_answers_here(tmp_path: Path) -> None:
    agents(tmp_path / "near-agents", CALLER)
    far_setup = {**agents(tmp_path / "far-agents", ORDERS), "MESH_MODELS__ADAPTER": "offline"}
    async with FakeOpenAI() as provider:
        provider.replies += [tool_call("far_orders", '{"text": "one"}'), {"content": "it is ordered"}]
        async with mesh_up(tmp_path / "far", **far_setup) as far:
            port = far.url.rpartition(":")[2]
            async with near_mesh(tmp_path, far.url, provider) as near:
                task_id = await near.submit("Order one", agent_id="caller", capability="calling")
                [question] = await until(near.client.inbox)
                assert "Which size?" in question.question, question
                await near.kill()
            await far.kill()
        async with (
            mesh_up(tmp_path / "far", "--port", port, **far_setup) as far,
            near_mesh(tmp_path, far.url, provider) as near,
        ):
            [question] = await until(near.client.inbox)
            await near.client.answer(question, {"size": "L"})
            await far.kill()
            async with mesh_up(tmp_path / "far", "--port", port, **far_setup) as again:
                assert (await near.outcome(task_id))["result"]["text"] == "it is ordered"
                messages = provider.calls[-1].body["messages"]
                assert [one["content"] for one in messages if one["role"] == "tool"] == ["ordered L"]
                [task] = await again.client.tasks()
                assert (await outcome(again.client, task.task_id)).result == {"text": "ordered L"}


async def test_cancel_goes_through_to_the_task_of_another_mesh(tmp_path: Path) -> None:
    agents(tmp_path / "near-agents", CALLER)
    far_setup = {**agents(tmp_path / "far-agents", ORDERS), "MESH_MODELS__ADAPTER": "offline"}
    async with FakeOpenAI() as provider, mesh_up(tmp_path / "far", **far_setup) as far:
        provider.replies.append(tool_call("far_orders", '{"text": "one"}'))
        async with near_mesh(tmp_path, far.url, provider) as near:
            task_id = await near.submit("Order one", agent_id="caller", capability="calling")
            await until(near.client.inbox)
            await near.kill()
        async with near_mesh(tmp_path, far.url, provider) as near:
            await until(near.client.inbox)
            await near.client.cancel(task_id)
            [task] = await far.client.tasks()
            assert (await outcome(far.client, task.task_id)).status == "cancelled"


async def outcome(client: Client, task_id: str) -> Any:
    async def look() -> Any:
        return (await client.task(task_id)).outcome

    return await until(look)

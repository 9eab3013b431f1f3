"""Meshes that give tasks to a peer and are killed: before its answer is there, and while it asks a person."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web

from tests.support.http_mesh import http_mesh
from tests.support.mcp_agents import ConfirmDelete
from tests.support.running_mesh import RunningMesh, mesh_up

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
        answer = await run.ask_person(f"Which size of {run.task.text}?", shape=Size)
        return f"ordered {answer.size}"
"""


class Relay:
    """Passes requests on to a peer; notes the messages, and can hold the answers to them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.messages: list[dict[str, Any]] = []
        self.arrived = asyncio.Event()
        self.is_holding = False
        self.is_away = False
        self.was_missed = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if self.is_away:
            self.was_missed.set()
            return web.Response(status=503)
        is_message = b'"SendMessage"' in body
        async with (
            ClientSession() as session,
            session.request(
                request.method, self.url + request.path_qs, data=body, headers=request.headers
            ) as answer,
        ):
            data = await answer.read()
            if is_message:
                self.messages.append((await request.json())["params"]["message"])
                self.arrived.set()
                if self.is_holding:
                    await asyncio.Event().wait()
            return web.Response(body=data, status=answer.status, content_type=answer.content_type)


@asynccontextmanager
async def relay_to(url: str) -> AsyncIterator[tuple[Relay, str]]:
    relay = Relay(url)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", relay.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield relay, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def question(mesh: RunningMesh) -> Any:
    """The question of a mesh, once it waits for a person."""
    await mesh.until(lambda event: event["payload"].get("kind") == "person")
    [question] = await mesh.client.inbox()
    return question


def setup(folder: Path) -> dict[str, str]:
    (folder / "actors").mkdir(parents=True)
    (folder / "actors/orders.py").write_text(ORDERS)
    return {"MESH_AGENTS__DIR": str(folder / "actors"), "MESH_MODELS__ADAPTER": "offline"}


async def test_task_at_a_peer_outlives_kill_9_of_its_caller(tmp_path: Path) -> None:
    """Killed before the answer to its message is there, and again while a person is asked by both meshes."""
    environment = setup(tmp_path)
    async with mesh_up(tmp_path / "peer", **environment) as peer, relay_to(peer.url) as (relay, url):
        own = environment | {"MESH_REMOTE__THEIRS__A2A": f"{url}/a2a/agents/orders"}
        relay.is_holding = True
        async with mesh_up(tmp_path / "own", **own) as mesh:
            task_id = await mesh.submit("tea", capability=None, agent_id="theirs")
            await relay.arrived.wait()
            await mesh.kill()
        relay.is_holding = False
        async with mesh_up(tmp_path / "own", **own) as mesh:
            asked = await question(mesh)
            assert asked.question.endswith("Which size of tea?")
            await mesh.kill()
        async with mesh_up(tmp_path / "own", **own) as mesh:
            asked = await question(mesh)
            await mesh.client.answer(asked, {"size": "L"})
            outcome = await mesh.outcome(task_id)
            assert outcome["result"] == {"text": "ordered L"}
        first, again, answer = relay.messages
        assert (first, answer["parts"]) == (again, answer["parts"])
        assert [*answer["parts"][0]["data"].values()] == [{"size": "L"}]
        assert len(await peer.client.tasks()) == 1


async def test_cancel_that_a_peer_was_away_for_reaches_it_after_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    async with http_mesh(tmp_path, ConfirmDelete) as peer, relay_to(peer.url) as (relay, url):
        tables = {"theirs": {"a2a": f"{url}/a2a"}}
        async with http_mesh(tmp_path / "own", remote=tables) as own:
            task = await own.client.submit(agent_id="theirs", capability="waiting", text="wait")
            async for event in own.client.follow(task.task_id):
                if event.fields.get("kind") == "timer":  # it has the id of the peer's task
                    break
            relay.is_away = True
            await own.client.cancel(task.task_id)
            assert (await own.client.outcome(task.task_id)).status == "cancelled"
            await relay.was_missed.wait()
        relay.is_away = False
        [remote] = await peer.client.tasks()
        assert remote.status != "cancelled"
        async with http_mesh(tmp_path / "own", remote=tables):
            assert (await peer.client.outcome(remote.task_id)).status == "cancelled"

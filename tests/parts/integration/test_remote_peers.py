"""Peers of the official SDK of A2A, `a2a-sdk` 1.3.0, and peers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from a2a.helpers import new_task_from_user_message, new_text_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2
from aiohttp import web
from google.protobuf.json_format import ParseDict
from starlette.applications import Starlette

from tests.parts.integration.test_remote_kills import relay_to
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import mesh_up

BINDINGS = ("JSONRPC", "HTTP+JSON")


class Shop(AgentExecutor):
    """Sells, asks for a size, declines, breaks, or waits to be cancelled."""

    def __init__(self) -> None:
        self.tasks = dict[str, str]()
        """How each task ended, or that it began."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.task_id and context.context_id and context.message
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        said = context.get_user_input()
        if context.current_task is None:
            self.tasks[context.task_id] = "begun"
            await event_queue.enqueue_event(new_task_from_user_message(context.message))
            await updater.start_work()
            if said == "ask":
                return await updater.requires_input(new_text_message("Which size?"))
            if said == "decline":
                return await updater.reject(new_text_message("Not for sale"))
            if said == "wait":
                await asyncio.Event().wait()
        self.tasks[context.task_id] = "sold"
        await updater.add_artifact([new_text_part(f"sold {said}")])
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.task_id and context.context_id
        self.tasks[context.task_id] = "cancelled"
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


@asynccontextmanager
async def shop(binding: str = "JSONRPC", address: str = "") -> AsyncIterator[tuple[Shop, str]]:
    """A server of the SDK with one binding; its card has another `address` where a relay is before it."""
    server = uvicorn.Server(uvicorn.Config(Starlette(), port=0, log_level="error", lifespan="off"))
    listener = server.config.bind_socket()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    interface = {"url": address or url, "protocolBinding": binding, "protocolVersion": "1.0"}
    skill = {"id": "selling", "name": "sell", "description": "Sells.", "tags": ["shop"]}
    document = {
        "name": "Shop",
        "description": "Sells things.",
        "version": "1",
        "supportedInterfaces": [interface],
        "capabilities": {},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [skill],
    }
    card, seller = ParseDict(document, a2a_pb2.AgentCard()), Shop()
    handler = DefaultRequestHandler(seller, InMemoryTaskStore(), card)
    binding_routes = (
        create_jsonrpc_routes(handler, "/") if binding == "JSONRPC" else create_rest_routes(handler)
    )
    server.config.app = Starlette(routes=[*create_agent_card_routes(card), *binding_routes])
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield seller, url
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize("binding", BINDINGS)
async def test_peer_of_the_sdk_does_tasks(tmp_path: Path, binding: str) -> None:
    async with shop(binding) as (seller, url), http_mesh(tmp_path, remote={"shop": {"a2a": url}}) as own:
        task = await own.client.submit(agent_id="shop", text="tea")
        assert (await own.client.outcome(task.task_id)).result == {"text": "sold tea"}
        task = await own.client.submit(capability="selling", text="ask")
        async for event in own.client.follow(task.task_id):
            if event.fields.get("kind") == "person":
                break
        [question] = await own.client.inbox()
        assert question.question == "shop asks: Which size?"
        await own.client.answer(question, "L")
        assert (await own.client.outcome(task.task_id)).result == {"text": "sold L"}
        task = await own.client.submit(agent_id="shop", text="decline")
        error = (await own.client.outcome(task.task_id)).error
        assert error is not None and error.message == "shop declined: Not for sale"
        task = await own.client.submit(agent_id="shop", text="wait")
        async for event in own.client.follow(task.task_id):
            if event.fields.get("kind") == "timer":
                break
        await own.client.cancel(task.task_id)
        while [*seller.tasks.values()][-1] != "cancelled":
            await asyncio.sleep(0.05)
        assert [*seller.tasks.values()] == ["sold", "sold", "begun", "cancelled"]


async def test_peer_is_looked_at_before_a_message_is_sent_again(tmp_path: Path) -> None:
    """The caller is killed while the answer to its message is on its way: the peer has the task."""
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/one.py").write_text(
        "from meshwright import Agent, Capability\n\n\nclass One(Agent):\n    agent_id = 'one'\n"
        "    capabilities = (Capability('being'),)\n    prompt_text = 'Be.'\n"
    )
    async with relay_to("") as (relay, address), shop("JSONRPC", address) as (seller, url):
        relay.url, relay.is_holding = url, True
        environment = {"MESH_AGENTS__DIR": str(tmp_path / "actors"), "MESH_MODELS__ADAPTER": "offline"}
        environment["MESH_REMOTE__SHOP__A2A"] = address
        async with mesh_up(tmp_path / "data", **environment) as mesh:
            task_id = await mesh.submit("tea", capability=None, agent_id="shop")
            await relay.arrived.wait()
            await mesh.kill()
        relay.is_holding = False
        async with mesh_up(tmp_path / "data", **environment) as mesh:
            assert (await mesh.outcome(task_id))["result"] == {"text": "sold tea"}
        assert (len(relay.messages), [*seller.tasks.values()]) == (1, ["sold"])


# Peers that misbehave

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def card(request: web.Request, **fields: Any) -> web.Response:
    interface = {"url": str(request.url.origin()), "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    return web.json_response({"name": "x", "supportedInterfaces": [interface | fields]})


async def bad_gateway(request: web.Request) -> web.Response:
    return web.Response(text="<html>Bad gateway TOPSECRET</html>", status=502, content_type="text/html")


async def redirect(request: web.Request) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/elsewhere")


async def hang(request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def huge(request: web.Request) -> web.Response:
    return web.Response(body=b" " * 3_000)


async def old(request: web.Request) -> web.Response:
    return web.json_response({"name": "x", "protocolVersion": "0.3.0", "url": str(request.url.origin())})


async def other_version(request: web.Request) -> web.Response:
    return card(request, protocolVersion="2.0")


async def other_origin(request: web.Request) -> web.Response:
    return card(request, url="http://169.254.169.254/a2a")


async def nonsense(request: web.Request) -> web.Response:
    return web.json_response({"supportedInterfaces": 7})


async def usable(request: web.Request) -> web.Response:
    return card(request)


async def no_task(request: web.Request) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": 1, "result": {"task": {"id": 7}}})


async def refusal(request: web.Request) -> web.Response:
    error = {"code": -32602, "message": "No, \x1b[31mTOPSECRET"}
    return web.json_response({"jsonrpc": "2.0", "id": 1, "error": error})


@asynccontextmanager
async def mesh_with(folder: Path, card_handler: Handler, handler: Handler) -> AsyncIterator[Api]:
    """A mesh whose peer is a server of these handlers."""
    app = web.Application()
    app.router.add_get("/.well-known/agent-card.json", card_handler)
    app.router.add_post("/", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    peer = {"a2a": address, "token": "TOPSECRET", "timeout_seconds": 0.5, "max_bytes": 2_000}
    try:
        async with http_mesh(folder, remote={"peer": peer}) as own:
            yield own
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (bad_gateway, "peer answered 502: '<html>Bad gateway [redacted]</html>'"),
        (redirect, "peer answered 302, a redirect to http://127.0.0.1:1/elsewhere"),
        (hang, "peer did not answer within 0.5 seconds"),
        (huge, "peer answered more than 2,000 bytes"),
        (old, "it speaks A2A 0.3.0, and Meshwright 1.0 by JSONRPC or HTTP+JSON"),
        (other_version, "it speaks A2A 2.0 by JSONRPC, and Meshwright 1.0"),
        (other_origin, "its card leads to http://169.254.169.254:80, another origin"),
        (nonsense, "peer answered a card that is none: supportedInterfaces"),
    ],
)
async def test_peer_without_a_usable_card_takes_no_task(
    tmp_path: Path, handler: Handler, reason: str
) -> None:
    async with mesh_with(tmp_path, handler, hang) as own:
        while True:
            [info] = [agent for agent in await own.client.agents() if agent.agent_id == "peer"]
            if info.unmet:
                break
            await asyncio.sleep(0.05)
        assert reason in info.unmet["peer"]
        status, problem = await own.call("POST", "/tasks", json={"agent_id": "peer", "payload": {}})
        assert status == 503 and reason in problem["detail"]
        assert (await own.client.ask("echo", "hi")).success


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (bad_gateway, "peer answered 502: '<html>Bad gateway [redacted]</html>'. It may have taken effect"),
        (redirect, "peer answered 302, a redirect to http://127.0.0.1:1/elsewhere"),
        (hang, "peer did not answer within 0.5 seconds. It may have taken effect"),
        (huge, "peer answered more than 2,000 bytes. Set max_bytes in [remote.peer]. It may have taken"),
        (no_task, "peer answered a task that is none: id"),
        (refusal, "peer refuses: No, [31m[redacted]"),
    ],
)
async def test_peer_that_answers_badly_fails_the_task(tmp_path: Path, handler: Handler, reason: str) -> None:
    async with mesh_with(tmp_path, usable, handler) as own:
        outcome = await own.client.outcome((await own.client.submit(agent_id="peer", text="hi")).task_id)
        assert outcome.error is not None and outcome.error.message.startswith(reason)
        assert "TOPSECRET" not in str(await own.client.events(task_id=outcome.task_id))

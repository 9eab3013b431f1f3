"""MCP servers at an address, and of the protocol that lets a server ask before it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from mcp import types
from mcp.server import Server, ServerRequestContext

from meshwright import Agent, Capability, TaskRequest
from meshwright.agents.loader import BoundAgents
from meshwright.core.errors import MeshError
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.parts.mcp.connection import bounded_transport
from meshwright.testing import ManualClock, ScriptedModel, mesh_for, tool_call
from meshwright.testing.mesh import MeshUnderTest
from tests.support.interrupted_mesh import kept, told_of
from tests.support.settings import load_settings

SIZE = {
    "type": "object",
    "properties": {"size": {"type": "string", "enum": ["S", "L"]}},
    "required": ["size"],
}


class Caller(Agent):
    """Calls the tools of servers."""

    agent_id = "caller"
    capabilities = (Capability("calling"),)
    prompt_text = "You call tools."
    remembers = False
    toolsets = ("mcp.shop",)


class Shop:
    """A server of the library's own, which notes the calls that it gets."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, str | None]] = []
        self.headers: list[Mapping[str, str]] = []
        self.url = ""
        self.held, self.opened = asyncio.Event(), asyncio.Event()
        self.asks: types.InputRequest = types.ElicitRequest(
            params=types.ElicitRequestFormParams(message="Which size?", requested_schema=SIZE)
        )
        self._server = Server("shop", on_list_tools=self._list, on_call_tool=self._call)

    async def _list(self, context: ServerRequestContext[Any], params: Any) -> types.ListToolsResult:
        reads = types.ToolAnnotations(read_only_hint=True)
        schema = {"type": "object"}
        tools = [types.Tool(name=name, input_schema=schema) for name in ("order", "bake", "hold")]
        return types.ListToolsResult(
            tools=[*tools, types.Tool(name="look", input_schema=schema, annotations=reads)]
        )

    async def _call(
        self, context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        given = {
            key: answer.model_dump(exclude_none=True)
            for key, answer in (params.input_responses or {}).items()
        }
        self.calls.append((params.name, given, params.request_state))
        if context.request is not None:
            self.headers.append(context.request.headers)
        if params.name == "hold":
            self.held.set()
            await self.opened.wait()
        if params.name == "order" and not given:
            return types.InputRequiredResult(input_requests={"q": self.asks}, request_state="order-7")
        if params.name == "bake" and params.request_state != "2":
            state = str(int(params.request_state or 0) + 1)
            return types.InputRequiredResult(request_state=state)
        text = f"{params.name} with {given.get('q', {}).get('content')}"
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[None]:
        config = uvicorn.Config(
            self._server.streamable_http_app(),
            host="127.0.0.1",
            port=port,
            log_level="critical",
            lifespan="on",
        )
        server = uvicorn.Server(config)
        started = asyncio.Event()
        startup = server.startup

        async def start(*arguments: Any, **options: Any) -> None:
            await startup(*arguments, **options)
            started.set()

        server.startup = start
        serving = asyncio.create_task(server._serve())
        await started.wait()
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        yield
        server.should_exit = True
        await serving


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    made = Shop()
    async with made.serving():
        yield made


def results(model: ScriptedModel) -> list[str]:
    return [message.text for message in model.requests[-1].messages if message.role == "tool"]


def table(shop: Shop, **settings: Any) -> dict[str, Any]:
    return {"shop": {"url": shop.url, "tools": ["*"], **settings}}


async def test_server_at_an_address_is_called_with_its_headers_and_not_believed(
    shop: Shop, tmp_path: Path
) -> None:
    model = ScriptedModel(tool_call("shop_look"), "Done.")
    tables = table(shop, headers={"X-Token": "t0"})
    async with mesh_for(Caller, model=model, project=tmp_path, mcp=tables) as mesh:
        tools = mesh.mesh.get(BoundAgents)["caller"].tools
        receipt = await mesh.submit(agent_id="caller", payload={"text": "Go."})
        [question] = await mesh.questions()  # it says that it only reads, and is not believed
        await mesh.answer(question, {"approve": True})
        await mesh.outcome(receipt.task_id)
    assert results(model) == ["look with None"]
    assert shop.headers[0]["x-token"] == "t0"
    async with mesh_for(
        Caller, model=ScriptedModel("Done."), project=tmp_path, mcp=table(shop, reads=["l*"])
    ) as mesh:
        await mesh.ask("caller", "Go.")
        tools = mesh.mesh.get(BoundAgents)["caller"].tools
        effects = {name: (tool.effect, tool.needs_approval) for name, tool in tools.items()}
    assert effects == {
        "shop_order": ("change", True),
        "shop_bake": ("change", True),
        "shop_hold": ("change", True),
        "shop_look": ("read", False),
    }


async def test_question_of_a_server_is_answered_after_a_restart(shop: Shop, tmp_path: Path) -> None:
    model = ScriptedModel(tool_call("shop_order"), "Ordered.")
    settings = load_settings(tmp_path, data_dir=tmp_path / "data", mcp=table(shop, approve="never"))
    async with build_mesh(settings, project=tmp_path, agents=[Caller], model=model) as first:
        mesh = MeshUnderTest(first, model, None)
        receipt = await mesh.submit(agent_id="caller", payload={"text": "Order one."})
        [question] = await mesh.questions()
        assert question.question == "The MCP server shop asks, for a call of shop_order: Which size?"
    async with build_mesh(settings, project=tmp_path, agents=[Caller], model=model) as second:
        mesh = MeshUnderTest(second, model, None)
        [question] = await mesh.questions()
        await mesh.answer(question, {"size": "L"})
        outcome = await mesh.outcome(receipt.task_id)
    assert outcome.text == "Ordered."
    assert results(model) == ["order with {'size': 'L'}"]
    assert shop.calls == [
        ("order", {}, None),
        ("order", {"q": {"action": "accept", "content": {"size": "L"}}}, "order-7"),
    ]


@pytest.mark.parametrize("idempotent", [["h*"], []], ids=["may be called twice", "change"])
async def test_call_that_a_crash_cut_off_is_repeated_where_the_settings_permit(
    shop: Shop, tmp_path: Path, idempotent: list[str]
) -> None:
    tables = table(shop, approve="never", idempotent=idempotent)
    async with kept(tmp_path, Caller, model=ScriptedModel(tool_call("shop_hold")), mcp=tables) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="caller", payload={"text": "Go."}))
        await shop.held.wait()
    shop.opened.set()
    model = ScriptedModel("Done.")
    async with kept(tmp_path, Caller, model=model, mcp=tables) as mesh:
        if not idempotent:
            waiting = await told_of(mesh, "task.waiting")
            answer = {"approve": False, "result": "held by hand"}
            await mesh.get(Tasks).answer(receipt.task_id, waiting.payload["key"], answer)
        assert (await mesh.get(Tasks).outcome(receipt.task_id)).success
    [result] = results(model)
    assert ("hold with None" if idempotent else "held by hand") in result
    assert len(shop.calls) == 1 + len(idempotent)


async def test_server_that_needs_time_is_called_again_later(
    shop: Shop, tmp_path: Path, clock: ManualClock
) -> None:
    model = ScriptedModel(tool_call("shop_bake"), "Baked.")
    tables = table(shop, approve="never")
    async with mesh_for(Caller, model=model, project=tmp_path, clock=clock, mcp=tables) as mesh:
        receipt = await mesh.submit(agent_id="caller", payload={"text": "Bake."})
        for calls, pause in ((1, 1), (2, 2)):
            await waiting(mesh, calls)
            assert len(shop.calls) == calls
            await mesh.advance(pause)
        outcome = await mesh.outcome(receipt.task_id)
    assert outcome.text == "Baked."
    assert [state for _, _, state in shop.calls] == [None, "1", "2"]


async def waiting(mesh: MeshUnderTest, count: int) -> None:
    """Wait until the task has waited that often."""
    seen = asyncio.Event()
    stop = mesh.mesh.runtime.listen("#", lambda event: seen.set(), ("task.waiting",))
    while len(mesh.events("task.waiting")) < count:
        seen.clear()
        await seen.wait()
    stop()


@pytest.mark.parametrize(
    ("asks", "error"),
    [
        (types.ListRootsRequest(), "asks for your folders"),
        (
            types.ElicitRequest(
                params=types.ElicitRequestURLParams(message="Log in", url="http://evil.example/login")
            ),
            "asks a person to open",
        ),
    ],
    ids=["folders", "address"],
)
async def test_requests_that_are_no_questions_are_refused(
    shop: Shop, tmp_path: Path, asks: types.InputRequest, error: str
) -> None:
    shop.asks = asks
    model = ScriptedModel(tool_call("shop_order"), "Done.")
    async with mesh_for(Caller, model=model, project=tmp_path, mcp=table(shop, approve="never")) as mesh:
        await mesh.ask("caller", "Go.")
    assert error in results(model)[0]


async def test_address_where_nobody_answers_degrades_and_comes_back(
    shop: Shop, tmp_path: Path, clock: ManualClock
) -> None:
    other = Shop()
    async with other.serving():
        pass  # its port is free now
    other.url = f"http://127.0.0.1:{other.port}/mcp"
    model = ScriptedModel("Without.", tool_call("shop_look"), "With.")
    tables = table(other, approve="never")
    async with mesh_for(Caller, model=model, project=tmp_path, clock=clock, mcp=tables) as mesh:
        await mesh.ask("caller", "Go.")
        assert not model.requests[-1].tools
        ready = asyncio.Event()
        mesh.mesh.runtime.listen("#", lambda event: ready.set(), ("toolset.ready",))
        async with other.serving(other.port):
            await mesh.advance(1)
            await ready.wait()
            await mesh.ask("caller", "Go.")
    assert results(model) == ["look with None"]


@pytest.mark.parametrize(
    ("headers", "complaint"),
    [("content-type: application/json", "over 32 MB"), ("content-encoding: gzip", "a compressed answer")],
)
async def test_answer_without_end_is_not_read(headers: str, complaint: str) -> None:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\n{headers}\r\n\r\n".encode())
        with suppress(ConnectionError):
            while True:
                writer.write(b"x" * 1_000_000)
                await writer.drain()

    server = await asyncio.start_server(pour, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    async with server, httpx2.AsyncClient(transport=bounded_transport()) as client:
        with pytest.raises(MeshError, match=complaint):
            await client.get(f"http://127.0.0.1:{port}/mcp")

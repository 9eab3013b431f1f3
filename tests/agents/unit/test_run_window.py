"""A conversation that fills its model's window is shortened, and goes on."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

from meshwright import Agent, Capability, TaskRequest, tool
from meshwright.agents.context.text import count_tokens
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ContextTooLong
from meshwright.models.port import ModelReply, ModelRequest, ToolCall
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import Keeper, kept

PAGE = "The page says something about the sea. " * 30


def size_of(request: ModelRequest) -> int:
    texts = [
        text
        for message in request.messages
        for text in (message.content, *(call.arguments for call in message.tool_calls))
    ]
    return sum(map(count_tokens, texts))


def a_reader(page: str = PAGE) -> type[Agent]:
    class Reader(Agent):
        agent_id = "reader"
        capabilities = (Capability("reading"),)

        @tool(idempotent=True)
        async def read(self, number: int, note: str = "") -> str:
            """Read a page."""
            return f"{number}: {page}"

    return Reader


def reads(numbers: range, **arguments: Any) -> list[ToolCall]:
    return [tool_call("read", number=number, **arguments) for number in numbers]


async def ask(mesh: MeshUnderTest) -> Any:
    return await mesh.ask("reader", "What does the book say?")


async def test_old_results_are_shortened_before_the_window_is_full() -> None:
    model = ScriptedModel(*reads(range(30)), "It is about the sea.")
    async with mesh_for(a_reader(), model=model, context={"window_tokens": 8_000}) as mesh:
        assert (await ask(mesh)).text == "It is about the sea."
        shortened = mesh.events("context.shortened").payloads
    assert max(map(size_of, model.requests)) < 8_000
    last = model.requests[-1].messages
    assert last[1].content == "What does the book say?"
    results = [message.content for message in last if message.role == "tool"]
    assert len(results) == 30
    assert results[-6:] == [f"{number}: {PAGE}" for number in range(24, 30)]
    assert results[0] == f"0: {PAGE}"[:100] + "... [shortened: 1,173 characters]"
    assert {tuple(payload["how"]) for payload in shortened} == {("results",)}
    assert all(payload["tokens_after"] < payload["tokens_before"] for payload in shortened)


async def test_older_turns_are_summarised_where_short_results_do_not_help() -> None:
    model = ScriptedModel(*reads(range(120)), "It is about the sea.")
    model.replies(*["Pages were read: they are about water."] * 9, to="context-service")
    async with mesh_for(a_reader("short"), model=model, context={"window_tokens": 3_000}) as mesh:
        assert (await ask(mesh)).text == "It is about the sea."
        first = mesh.events("context.shortened").payloads[0]
        calls = mesh.events("model.called").payloads
    assert max(size_of(request) for request in model.requests if request.user == "reader") < 3_000
    assert (first["how"], first["error"]) == (["results", "summary"], None)
    [summary] = [
        message.content
        for message in model.requests[-1].messages
        if message.role == "user" and "left out" in message.content
    ]
    assert "they are about water" in summary
    assert model.requests[-1].messages[1].content == "What does the book say?"
    assert "context-service" in {call["user"] for call in calls}


async def test_what_a_summary_costs_counts_for_the_limits_of_the_run() -> None:
    summary = ModelReply(model="m", content="Pages were read.", cost_usd=Decimal(3))
    model = ScriptedModel(*reads(range(120)), "It is about the sea.")
    model.replies(summary, to="context-service")
    limits = {"max_usd": Decimal(2)}  # nothing else costs
    context = {"window_tokens": 3_000}
    async with mesh_for(a_reader("short"), model=model, context=context, agents=limits) as mesh:
        await ask(mesh)
        kinds = [event.event_type for event in mesh.events()]
    assert kinds.count("context.shortened") == kinds.count("limit.money") == 1


async def test_without_a_compression_model_the_calls_are_listed() -> None:
    model = ScriptedModel(*reads(range(120)), "It is about the sea.")
    async with mesh_for(a_reader("short"), model=model, context={"window_tokens": 3_000}) as mesh:
        assert (await ask(mesh)).text == "It is about the sea."
        first = mesh.events("context.shortened").payloads[0]
    assert first["how"] == ["results", "list of calls"]
    assert "no model could summarise it" in first["error"]
    told = "\n".join(message.content for message in model.requests[-1].messages)
    assert "Tools were called: read" in told


class Strict(ScriptedModel):
    """Says its replies in order, and none to a request over its window, which nobody knows."""

    def __init__(self, *replies: str | ToolCall, most: int) -> None:
        super().__init__(*replies)
        self.most = most
        self.refused = 0

    def _reply(self, request: ModelRequest) -> ModelReply:
        if size_of(request) > self.most:
            self.refused += 1
            raise ContextTooLong("This model's maximum context length is exceeded")
        return super()._reply(request)


async def test_a_refusal_of_the_provider_shortens_and_tries_again() -> None:
    model = Strict(*reads(range(30)), "It is about the sea.", most=5_000)
    async with mesh_for(a_reader(), model=model) as mesh:
        assert (await ask(mesh)).text == "It is about the sea."
        assert mesh.events("context.shortened")
    assert 1 <= model.refused <= 3


async def test_one_result_too_large_for_the_window_is_cut() -> None:
    model = Strict(*reads(range(1)), "It is about the sea.", most=2_000)
    async with mesh_for(a_reader(PAGE * 20), model=model) as mesh:
        assert (await ask(mesh)).text == "It is about the sea."
        assert "new results" in mesh.events("context.shortened").payloads[-1]["how"]


async def test_a_request_too_large_for_the_window_fails_as_such() -> None:
    model = Strict("Never.", most=10)
    async with mesh_for(a_reader(), model=model) as mesh:
        outcome = await mesh.ask("reader", "What does the book say? " * 20)
    assert outcome.error is not None
    assert outcome.error.type == "ContextTooLong"


async def test_long_arguments_of_old_calls_are_shortened_too() -> None:
    note = "a long note " * 100
    model = ScriptedModel(*reads(range(30), note=note), "It is about the sea.")
    async with mesh_for(a_reader("short"), model=model, context={"window_tokens": 8_000}) as mesh:
        assert (await ask(mesh)).text == "It is about the sea."
    calls = [call for message in model.requests[-1].messages for call in message.tool_calls]
    assert "[shortened: 1,200 characters]" in calls[0].arguments
    assert note in calls[-1].arguments
    assert max(map(size_of, model.requests)) < 8_000


async def test_a_resumed_run_shortens_as_before(tmp_path: Path) -> None:
    reader = a_reader()

    class Stopped(reader, Keeper):  # type: ignore[misc, valid-type]
        agent_id = "reader"

    first = type("First", (Stopped,), {"began": asyncio.Event(), "opened": asyncio.Event()})
    second = type("Second", (Stopped,), {"began": asyncio.Event(), "opened": asyncio.Event()})
    second.opened.set()
    window = {"context": {"window_tokens": 8_000}}
    model = ScriptedModel(*reads(range(30)), tool_call("hold"))
    async with kept(tmp_path, first, model=model, **window) as mesh:
        task_id = (
            await mesh.get(Tasks).submit(TaskRequest(agent_id="reader", payload={"text": "Read it."}))
        ).task_id
        await first.began.wait()
    again = ScriptedModel("It is about the sea.")
    async with kept(tmp_path, second, model=again, context={"window_tokens": 100_000}) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
    assert (outcome.text, outcome.attempt) == ("It is about the sea.", 1)
    [request] = again.requests
    assert request.messages[:-2] == model.requests[-1].messages

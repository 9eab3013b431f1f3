"""Raw calls of models: known by what they ask for, through restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from meshwright import Agent
from meshwright.agents.run.run import Run
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.work import paths
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ChatMessage, ToolSpec
from meshwright.testing import ScriptedModel, mesh_for
from tests.support.interrupted_mesh import kept
from tests.support.run_clients import EchoingModel, ask, author, submitted


class Order(BaseModel):
    number: int


async def test_complete_sends_these_messages_alone_with_the_settings_of_the_agent() -> None:
    async def run(self: Agent, run: Run) -> str:
        lookup = ToolSpec(name="look", description="Look.", parameters={"type": "object"})
        reply = await run.complete(
            [ChatMessage(role="system", content="Be short."), {"role": "user", "content": "Hello"}],
            tools=[lookup],
            shape=Order,
            tool_choice="required",
            max_tokens=7,
            params={"seed": 3},
        )
        return reply.content

    model = ScriptedModel('{"number": 1}')
    text = "---\ndescription: d\ntags: [cheap]\nmodel: fast\n---\nNever sent."
    async with mesh_for(author(run, prompt_text=text, params={"top_p": 0.5}), model=model) as mesh:
        outcome = await mesh.ask("author", "Do it.")
        [call] = mesh.events("model.called")
    [request] = model.requests
    assert outcome.text == '{"number": 1}'
    assert [message.content for message in request.messages] == ["Be short.", "Hello"]
    assert (request.model, request.tags, request.user) == ("fast", ("cheap",), "author")
    assert (request.max_tokens, request.temperature, request.tool_choice) == (7, None, "required")
    assert request.params == {"top_p": 0.5, "seed": 3}
    assert request.response_schema is not None and request.response_schema["required"] == ["number"]
    assert [spec.name for spec in request.tools] == ["look"]
    assert call.payload["user"] == "author"


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ("Hello", "run.complete is given no list of messages"),
        ({"role": "user", "content": "x"}, "run.complete is given no list of messages"),
        ([{"role": "nobody", "content": "x"}], "messages.0.role"),
        ([{"role": "user", "content": 7}], "messages.0.content"),
    ],
)
async def test_messages_that_are_none_are_refused_with_their_field(messages: Any, error: str) -> None:
    async def run(self: Agent, run: Run) -> str:
        return (await run.complete(messages)).content

    async with mesh_for(author(run)) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert error in str(outcome.error)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"temperature": "hot"}, "temperature: "),
        ({"max_tokens": -1}, "max_tokens: "),
        ({"model": 3}, "model: "),
        ({"tags": "cheap"}, "tags: "),
        ({"tool_choice": "any"}, "run.complete is given the tool_choice 'any'. Write one of auto"),
        ({"params": ["top_p"]}, "Write a dict, such as"),
        ({"shape": str}, "the shape <class 'str'> is no pydantic model"),
        ({"shape": {"type": "objekt"}}, "shape: type must be"),
        ({"on_delta": asyncio.sleep}, "Give a function that is not async"),
    ],
)
async def test_settings_that_are_none_are_refused_before_a_call(settings: Any, error: str) -> None:
    async def run(self: Agent, run: Run) -> str:
        return (await run.complete([{"role": "user", "content": "x"}], **settings)).content

    model = EchoingModel()
    async with mesh_for(author(run), model=model) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert error in str(outcome.error)
    assert not model.calls


async def test_messages_may_come_from_a_generator() -> None:
    async def run(self: Agent, run: Run) -> str:
        messages: Any = ({"role": "user", "content": text} for text in ("x", "y"))
        return (await run.complete(messages)).content

    async with mesh_for(author(run), model=EchoingModel()) as mesh:
        assert (await mesh.ask("author", "Do it.")).text == "y 1"


async def test_calls_side_by_side_find_their_own_replies_in_any_order(tmp_path: Path) -> None:
    """A pool takes questions from a queue: in the second claim its tasks begin in another order."""
    order = ["a", "b", "c", "same", "same"]

    async def run(self: Agent, run: Run) -> dict[str, Any]:
        answers: dict[str, list[str]] = {}

        async def work(questions: list[str]) -> None:
            for question in questions:
                answers.setdefault(question, []).append((await ask(run, question)).content)

        await asyncio.gather(work(order[:2]), work(order[2:]))
        follow_up = (await ask(run, f"after {answers['a'][0]}")).content
        return {**{name: sorted(texts) for name, texts in answers.items()}, "last": follow_up}

    first = EchoingModel("after a 1")
    async with kept(tmp_path, author(run), model=first) as mesh:
        task_id = await submitted(mesh)
        await first.reached.wait()
    order = ["same", "c", "b", "a", "same"]
    second = EchoingModel()
    async with kept(tmp_path, author(run), model=second) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
    expected = {name: [f"{name} 1"] for name in "abc"} | {"same": ["same 1", "same 2"]}
    assert outcome.result == {**expected, "last": "after a 1 1"}
    assert second.calls == {"after a 1": 1}


async def test_a_changed_request_starts_over_and_the_error_names_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_PATIENCE_SECONDS", 0.2)
    question = "the time is 10:00"

    async def run(self: Agent, run: Run) -> str:
        first = (await ask(run, "hello")).content
        second = (await ask(run, question)).content
        return f"{first}, {second}, {(await ask(run, 'last')).content}"

    first = EchoingModel("last")
    async with kept(tmp_path, author(run), model=first) as mesh:
        task_id = await submitted(mesh)
        await first.reached.wait()
    question = "the time is 10:05"
    second = EchoingModel()
    async with kept(tmp_path, author(run), model=second) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
        [failed] = await mesh.log.query(EventFilter(task_id=task_id, event_type="attempt.failed"))
    error = failed.payload["error"]
    assert error["type"] == "ReplayMismatch"
    assert "is new ('model'), and the recorded step 2 ('model', by" in error["message"]
    assert "The code between two calls must be repeatable" in error["message"]
    assert outcome.text == "hello 1, the time is 10:05 1, last 1"

"""Tools for models that take none: told in words, called in JSON, to all others as if they took them."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from meshwright import Agent, Capability, tool
from meshwright.models.errors import Unsupported
from meshwright.models.port import ModelReply, ModelRequest
from meshwright.models.server import HttpModel
from meshwright.testing import mesh_for
from tests.support.fake_provider import FakeProvider, Fault

NO_TOOLS = Fault(status=400, body={"error": {"message": "gemma:2b does not support tools"}})


def called(*calls: tuple[str, dict[str, Any]]) -> str:
    return json.dumps({"tool_calls": [{"name": name, "arguments": given} for name, given in calls]})


class Soup(BaseModel):
    """A soup."""

    title: str


class Cook(Agent):
    """Cooks with what there is."""

    agent_id = "cook"
    capabilities = (Capability("cooking"),)

    @tool(idempotent=True)
    async def pantry(self, shelf: int) -> list[str]:
        """Tell what there is on a shelf."""
        return [f"leek {shelf}"]


class Shaped(Cook):
    """Answers in a shape."""

    agent_id = "cook"
    answers = Soup


class Toolless:
    """A model that refuses tools, and what else it is told to; it says what it is given to say."""

    name = "toolless"

    def __init__(self, *says: str, without: tuple[str, ...] = ("tools",)) -> None:
        self.says = list(says)
        self.without = without
        self.requests: list[ModelRequest] = []
        self.streamed: list[bool] = []

    async def complete(self, request: ModelRequest, on_delta: Any = None) -> ModelReply:
        if request.user == "context-service":
            return ModelReply(content="", model=self.name, cost_usd=Decimal(0))
        self.requests.append(request)
        self.streamed.append(on_delta is not None)
        if "response_format" in self.without and request.response_schema is not None:
            raise Unsupported("no", what="response_format")
        if request.tools or any(each.role == "tool" or each.tool_calls for each in request.messages):
            raise Unsupported("no", what="tools")
        return ModelReply(content=self.says.pop(0), model=self.name, cost_usd=Decimal(0))

    async def close(self) -> None: ...


async def test_a_model_without_tools_is_told_of_them_in_words_and_calls_them_in_json() -> None:
    model = Toolless(called(("pantry", {"shelf": 2})), "Leek soup.")
    async with mesh_for(Cook, model=model) as mesh:
        assert (await mesh.ask("cook", "What can I cook?")).text == "Leek soup."
        assert mesh.events("tool.called").names == ["pantry"]
    _, first, last = model.requests
    system = first.messages[0].content
    for told in ('"name":"pantry"', "Tell what there is on a shelf.", '"shelf":{', '{"tool_calls": [{"name"'):
        assert system.count(told) == 1
    assert [message.role for message in last.messages] == ["system", "user", "assistant", "user"]
    assert json.loads(last.messages[2].content) == json.loads(called(("pantry", {"shelf": 2})))
    assert last.messages[3].content == 'Result of pantry:\n["leek 2"]'


async def test_that_a_model_takes_no_tools_is_remembered_for_its_group_and_tags() -> None:
    model = Toolless("One.", "Two.")
    async with mesh_for(Cook, model=model) as mesh:
        assert [(await mesh.ask("cook", "Cook!")).text for _ in range(2)] == ["One.", "Two."]
    assert [bool(request.tools) for request in model.requests] == [True, False, False]


async def test_several_calls_of_one_reply_are_told_in_one_message() -> None:
    model = Toolless(called(("pantry", {"shelf": 1}), ("pantry", {"shelf": 2})), "Done.")
    async with mesh_for(Cook, model=model) as mesh:
        await mesh.ask("cook", "What can I cook?")
    *_, last = model.requests[-1].messages
    assert last.content == 'Result of pantry:\n["leek 1"]\n\nResult of pantry:\n["leek 2"]'


async def test_wrong_arguments_and_unknown_tools_are_told_to_the_model() -> None:
    model = Toolless(called(("pantry", {"shelf": "x"}), ("cellar", {})), "Done.")
    async with mesh_for(Cook, model=model) as mesh:
        assert (await mesh.ask("cook", "What can I cook?")).text == "Done."
    *_, last = model.requests[-1].messages
    assert "shelf: Input should be a valid integer" in last.content
    assert "there is no tool 'cellar'" in last.content


@pytest.mark.parametrize(
    "text",
    [
        "I would look into the pantry.",
        '{"tool_calls": []}',
        '{"tool_calls": [{"name": "pantry", "arguments": "{}"}]}',
        '{"tool_calls": [{"name": "pantry"}], "why": "hunger"}',
        '{"title": "Soup"}',
    ],
)
async def test_what_is_not_exactly_a_call_is_the_answer(text: str) -> None:
    async with mesh_for(Cook, model=Toolless(text)) as mesh:
        assert (await mesh.ask("cook", "What can I cook?")).text == text
        assert not mesh.events("tool.called")


async def test_a_call_in_a_fence_is_read_as_it_is_meant() -> None:
    model = Toolless(f"I look.\n```json\n{called(('pantry', {'shelf': 2}))}\n```", "Leek soup.")
    async with mesh_for(Cook, model=model) as mesh:
        assert (await mesh.ask("cook", "What can I cook?")).text == "Leek soup."
        assert mesh.events("tool.called").names == ["pantry"]


async def test_what_may_be_a_call_is_not_streamed() -> None:
    model = Toolless(called(("pantry", {"shelf": 2})), "Leek soup.")
    async with mesh_for(Cook, model=model) as mesh:
        await mesh.ask("cook", "What can I cook?")
    assert model.streamed == [True, False, False]


async def test_a_model_that_only_calls_tools_is_asked_for_its_answer() -> None:
    again = called(("pantry", {"shelf": 2}))
    model = Toolless(again, again, "Leek soup.")
    async with mesh_for(Cook, model=model, agents={"max_repeats": 2}) as mesh:
        assert (await mesh.ask("cook", "What can I cook?")).text == "Leek soup."
    assert "You can call tools" not in model.requests[-1].messages[0].content


@pytest.mark.parametrize("without", [("tools",), ("tools", "response_format")])
async def test_tools_and_a_shape_go_together(without: tuple[str, ...]) -> None:
    model = Toolless(called(("pantry", {"shelf": 2})), '{"title": "Leek"}', without=without)
    async with mesh_for(Shaped, model=model) as mesh:
        assert (await mesh.ask("cook", "What can I cook?")).result == {"title": "Leek"}
        assert mesh.events("tool.called").names == ["pantry"]
    system = model.requests[-1].messages[0].content
    assert "Unless you call a tool, answer with one JSON object" in system
    assert system.count("You can call tools") == 1


# Over HTTP, and in the ledger


async def test_a_server_that_refuses_tools_gets_them_in_words_and_each_try_is_a_call(
    fake: FakeProvider, tmp_path: Path
) -> None:
    fake.faults.append(NO_TOOLS)
    fake.replies += [{"content": called(("pantry", {"shelf": 2}))}, {"content": "Leek soup."}]
    async with mesh_for(Cook, model=HttpModel(fake.url)) as mesh:
        outcome = await mesh.ask("cook", "What can I cook?")
        calls = [event.payload for event in mesh.events("model.called")]
        assert mesh.events("tool.called").names == ["pantry"]
    assert outcome.text == "Leek soup."
    assert ["tools" in call.body for call in fake.calls] == [True, False, False]
    assert [call["outcome"] for call in calls] == ["failed", "ok", "ok"]
    assert [call["error"] for call in calls] == ["Unsupported", None, None]
    assert len({call["call_id"] for call in calls}) == 3


LLAMA = {"server": "llama.cpp"}
IGNORES = {"chat_template_caps": {"supports_tools": False, "supports_tool_calls": False}}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_server_that_ignores_tools_in_silence_is_named_and_told_of_them_in_words(
    fake: FakeProvider, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    fake.headers, fake.props = LLAMA, IGNORES
    fake.replies.append({"content": "I would look at the shelf."})  # all that its template lets it do
    fake.replies.extend([{"content": called(("pantry", {"shelf": 2}))}, {"content": "Leek soup."}] * 2)
    model = HttpModel(fake.url)
    async with mesh_for(Cook, model=model, models={"stream": stream}) as mesh:
        outcomes = [await mesh.ask("cook", "What can I cook?") for _ in range(2)]
        calls = mesh.events("model.called").payloads
    await model.close()
    assert [outcome.text for outcome in outcomes] == ["Leek soup."] * 2
    offers = [bool(call.body.get("tools")) for call in fake.calls]
    assert offers == [True, False, False, False, False]
    assert sum(call["usage"]["prompt_tokens"] for call in calls) == 5 * 11  # the first is paid too
    [warning] = [text for text in caplog.messages if "ignores tools" in text]
    assert warning.startswith(fake.url)


@pytest.mark.parametrize(
    ("headers", "props"),
    [
        (LLAMA, {"chat_template_caps": {"supports_tools": True}}),
        (LLAMA, {"chat_template": "{{ messages }}"}),
        (LLAMA, None),
        ({}, IGNORES),
    ],
    ids=["takes them", "an older server", "no properties", "another server"],
)
async def test_a_server_that_says_nothing_against_tools_gets_them(
    fake: FakeProvider, headers: dict[str, str], props: dict[str, Any] | None
) -> None:
    fake.headers, fake.props = headers, props
    fake.replies.extend([{"content": "Soup."}] * 2)
    model = HttpModel(fake.url)
    async with mesh_for(Cook, model=model) as mesh:
        texts = [(await mesh.ask("cook", "What can I cook?")).text for _ in range(2)]
    await model.close()
    assert texts == ["Soup."] * 2 and all(call.body.get("tools") for call in fake.calls)

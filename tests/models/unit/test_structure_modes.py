"""The ways to ask for a shape: the next one where a model refuses the first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshwright import tool
from meshwright.models.adapt import ANSWER_TOOL
from meshwright.models.errors import ContentRefused, ContextTooLong, ModelRefused, Part, Unsupported
from meshwright.models.port import ModelReply, ModelRequest, ToolCall
from meshwright.models.structure import response_schema
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from tests.support.recipe_agent import NO_SOUP, SOUP, SOUP_TEXT, Cook, Recipe, said


def answered(status: int) -> ModelRefused:
    error = ModelRefused(f"answered {status}")
    error.answered = status
    return error


class Picky:
    """A model that refuses the ways it does not know, as a provider does by 400."""

    name = "picky"

    def __init__(self, *knows: str, error: ModelRefused | None = None) -> None:
        self.knows = knows
        self.error = error or answered(400)
        self.requests: list[ModelRequest] = []

    async def complete(self, request: ModelRequest, on_delta: Any = None) -> ModelReply:
        assert on_delta is None  # what is to be JSON is not streamed
        self.requests.append(request)
        if request.user == "context-service":
            raise ModelRefused("no")
        way = way_of(request)
        if way not in self.knows:
            raise self.error
        if way == "tool":
            return said("", tool_calls=(ToolCall(id="1", name=ANSWER_TOOL, arguments=SOUP_TEXT),))
        return said(SOUP_TEXT)

    async def close(self) -> None: ...

    @property
    def ways(self) -> list[str]:
        return [way_of(request) for request in self.requests if request.user == "cook"]


def way_of(request: ModelRequest) -> str:
    if request.response_schema is not None:
        return "native"
    return "tool" if request.tool_choice == "required" else "prompted"


async def outcomes(model: Picky, count: int, project: Path | None = None) -> list[Any]:
    async with mesh_for(Cook, model=model, project=project) as mesh:
        return [await mesh.ask("cook", "What can I cook?") for _ in range(count)]


@pytest.mark.parametrize(
    ("knows", "ways"),
    [
        (("native",), ["native", "native"]),
        (("tool",), ["native", "tool", "tool"]),
        (("prompted",), ["native", "tool", "prompted", "prompted"]),
    ],
)
async def test_a_way_that_is_refused_is_followed_by_the_next_and_remembered(
    knows: tuple[str, ...], ways: list[str]
) -> None:
    model = Picky(*knows)
    assert [outcome.result for outcome in await outcomes(model, 2)] == [SOUP, SOUP]
    assert model.ways == ways


async def test_a_forced_tool_is_the_shape_and_must_be_called() -> None:
    model = Picky("tool")
    await outcomes(model, 1)
    request = model.requests[-1]
    assert (request.tools[-1].parameters, request.tool_choice) == (response_schema(Recipe), "required")


async def test_an_instruction_holds_the_schema() -> None:
    model = Picky("prompted")
    await outcomes(model, 1)
    request = model.requests[-1]
    assert json.dumps(response_schema(Recipe), separators=(",", ":")) in request.messages[0].content
    assert "Unless you call a tool" in request.messages[0].content


@pytest.mark.parametrize("what", ["response_format", ""])
async def test_a_shape_that_a_model_says_it_does_not_take_is_asked_for_in_the_next_way(what: Part) -> None:
    model = Picky("tool", error=Unsupported("answered 404", what=what))
    assert [outcome.result for outcome in await outcomes(model, 1)] == [SOUP]
    assert model.ways == ["native", "tool"]


async def test_a_shape_that_is_taken_for_a_tool_is_asked_for_in_words_where_tools_are_not_taken() -> None:
    model = Picky("prompted", error=Unsupported("answered 400", what="tools"))
    assert [outcome.result for outcome in await outcomes(model, 1)] == [SOUP]
    assert "tool" not in model.ways


@pytest.mark.parametrize(
    "error",
    [
        ContextTooLong("too long"),
        ContentRefused("no"),
        answered(404),
        answered(429),
        ModelRefused("no group"),
    ],
)
async def test_a_refusal_that_no_other_way_would_change_is_final(error: ModelRefused) -> None:
    model = Picky(error=error)
    [outcome] = await outcomes(model, 1)
    assert outcome.error.type == type(error).__name__
    assert set(model.ways) == {"native"}


async def test_where_every_way_is_refused_the_refusal_is_the_end_and_nothing_is_remembered() -> None:
    model = Picky()
    first, _ = await outcomes(model, 2)
    assert first.error.type == "ModelRefused"
    assert model.ways == ["native", "tool", "prompted"] * 2


def told_to(folder: Path, structure: str) -> Path:
    """A project whose cook is asked in a way of its own."""
    (folder / "prompts").mkdir()
    fields = f"tags: [a]\nstructure: {structure}"
    (folder / "prompts/cook.prompt").write_text(f"---\n{fields}\n---\nCook.\n")
    return folder


async def test_a_prompt_says_which_way_comes_first(tmp_path: Path) -> None:
    model = Picky("native", "tool", "prompted")
    await outcomes(model, 1, told_to(tmp_path, "prompted"))
    assert model.ways == ["prompted"]


async def test_an_answer_beside_a_tools_call_waits_for_what_comes_of_it(tmp_path: Path) -> None:
    early = ToolCall(id="", name=ANSWER_TOOL, arguments=NO_SOUP)
    right = ToolCall(id="", name=ANSWER_TOOL, arguments=SOUP_TEXT)
    model = ScriptedModel([tool_call("pantry"), early], right)
    async with mesh_for(Cook, model=model, project=told_to(tmp_path, "tool")) as mesh:
        outcome = await mesh.ask("cook", "What can I cook?")
        assert mesh.events("tool.called").names == ["pantry"]
        assert not mesh.events("structure.invalid")
    assert outcome.result == SOUP
    [asked] = [message.tool_calls for message in model.requests[-1].messages if message.tool_calls]
    assert [call.name for call in asked] == ["pantry"]


async def test_an_agents_own_tool_of_that_name_stays_its_own() -> None:
    class Odd(Cook):
        agent_id = "cook"

        @tool(idempotent=True, name=ANSWER_TOOL)
        async def final(self) -> str:
            """Something else."""
            return "else"

    model = Picky("prompted")
    async with mesh_for(Odd, model=model) as mesh:
        assert (await mesh.ask("cook", "What can I cook?")).result == SOUP
    assert model.ways == ["native", "prompted"]

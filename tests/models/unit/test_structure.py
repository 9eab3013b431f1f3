"""Answers in a shape: its schema, how they are read, and what comes of them."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel

from meshwright import Agent, Capability
from meshwright.agents.run.run import Run
from meshwright.core.errors import ConfigError
from meshwright.core.schema_checks import InvalidSchema
from meshwright.models.errors import StructureInvalid
from meshwright.models.structure import answer_shape, read_answer, response_schema
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from tests.support.recipe_agent import NO_SOUP, SOUP, SOUP_TEXT, Cook, Recipe, said

# The schema


class Leaf(BaseModel):
    kind: Literal["leaf"]


class Branch(BaseModel):
    kind: Literal["branch"]
    parts: list[Branch | Leaf] = []


class Tree(BaseModel):
    """A tree."""

    default: str = "oak"
    title: str
    root: Branch | Leaf = Field(discriminator="kind")
    best: Leaf = Field(description="the best leaf")
    notes: dict[str, Leaf] = {}


def objects(schema: Any) -> list[dict[str, Any]]:
    """Every object schema within a schema."""
    if isinstance(schema, list):
        return [found for each in schema for found in objects(each)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if "properties" in schema else []
    return own + [found for each in schema.values() for found in objects(each)]


@pytest.mark.parametrize("shape", [Recipe, Tree, Branch])
def test_a_schema_is_as_strict_as_openai_wants_it(shape: type[BaseModel]) -> None:
    schema = response_schema(shape)
    assert (schema["type"], "$ref" in schema) == ("object", False)
    for each in objects(schema):
        assert each["additionalProperties"] is False
        assert each["required"] == list(each["properties"])
        for part in each["properties"].values():
            assert not part.keys() & {"default", "oneOf", "discriminator", "title"}
            assert "$ref" not in part or part.keys() == {"$ref"}
    text = json.dumps(schema)
    for name in re.findall(r"#/\$defs/(\w+)", text):
        assert name in schema["$defs"]


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ({"type": "array"}, {"type": "array", "items": {}}),
        ({"type": "array", "items": []}, {"type": "array", "items": {}}),
        ({"type": "array", "items": [{"type": "string"}]}, {"type": "array", "items": {"type": "string"}}),
        ({"type": ["array", "null"]}, {"type": ["array", "null"], "items": {}}),
        ({"enum": ["array"]}, {"enum": ["array"]}),
    ],
)
def test_arrays_of_a_callers_shape_say_what_is_in_them(field: Any, sent: Any) -> None:
    schema = {"type": "object", "properties": {"type": field}, "required": ["type"]}
    assert response_schema(answer_shape(schema))["properties"]["type"] == sent


def test_fields_may_have_the_names_of_keywords() -> None:
    schema = response_schema(Tree)
    assert list(schema["properties"]) == ["default", "title", "root", "best", "notes"]
    assert schema["properties"]["best"]["description"] == "the best leaf"
    assert schema["properties"]["notes"]["additionalProperties"] == {"$ref": "#/$defs/Leaf"}


# Reading


def test_an_answer_is_read_strictly_and_says_where_it_does_not_fit() -> None:
    assert read_answer(Recipe, said(f"Here you are:\n```json\n{SOUP_TEXT}\n```")).title == "Soup"
    with pytest.raises(StructureInvalid) as caught:
        read_answer(Recipe, said('{"title": 7, "steps": [{"text": "Boil.", "minutes": "10"}]}'))
    assert "title: Input should be a valid string" in caught.value.message
    assert "steps.0.minutes: Input should be a valid integer" in caught.value.message
    assert "Boil" not in str(caught.value)


def test_an_answer_that_was_cut_off_is_told_so() -> None:
    with pytest.raises(StructureInvalid, match="cut off after 0 tokens: answer in fewer words"):
        read_answer(Recipe, said(SOUP_TEXT[:-5], finish_reason="length"))
    with pytest.raises(StructureInvalid, match="it is empty"):
        read_answer(Recipe, said(" "))


# An agent that answers in a shape


async def test_an_agents_answer_is_its_shape_as_json() -> None:
    model = ScriptedModel(tool_call("pantry"), SOUP_TEXT)
    async with mesh_for(Cook, model=model) as mesh:
        outcome = await mesh.ask("cook", "What can I cook?")
        assert not mesh.events("structure.invalid")
    assert outcome.result == SOUP
    assert [request.response_schema for request in model.requests] == [response_schema(Recipe)] * 2
    assert model.requests[0].tools


async def test_an_answer_that_does_not_fit_is_told_why_and_given_again() -> None:
    model = ScriptedModel(tool_call("pantry"), NO_SOUP, SOUP_TEXT)
    async with mesh_for(Cook, model=model) as mesh:
        outcome = await mesh.ask("cook", "What can I cook?")
        [invalid] = mesh.events("structure.invalid").payloads
    assert outcome.result == SOUP
    first, second = model.requests[-1].messages[-2:]
    assert (first.role, first.content) == ("assistant", NO_SOUP)
    assert "steps.0.minutes: Input should be a valid integer" in second.content
    assert json.dumps(response_schema(Recipe), separators=(",", ":")) in second.content
    assert model.requests[-1].tools == ()
    assert (invalid["shape"], invalid["raw"], invalid["step"]) == ("Recipe", NO_SOUP, 4)
    assert "steps.0.minutes" in invalid["error"]


async def test_after_two_repairs_the_attempt_fails_and_what_was_said_is_in_the_events() -> None:
    raw = "No. " * 2_000
    model = ScriptedModel(NO_SOUP, "Sorry.", raw)
    async with mesh_for(Cook, model=model) as mesh:
        outcome = await mesh.ask("cook", "What can I cook?")
        told = mesh.events("structure.invalid").payloads
    assert outcome.error is not None
    assert (outcome.status, outcome.error.type) == ("failed", "StructureInvalid")
    assert "Sorry" not in outcome.error.message and "No." not in outcome.error.message
    assert "structure.invalid events" in outcome.error.message
    assert [payload["raw"][:4] for payload in told] == [NO_SOUP[:4], "Sorr", "No. "]
    assert len(told[-1]["raw"]) < 4_100
    assert len(model.requests) == 3


async def test_a_thread_remembers_an_answer_in_a_shape() -> None:
    model = ScriptedModel(SOUP_TEXT, SOUP_TEXT)
    async with mesh_for(Cook, model=model) as mesh:
        await mesh.ask("cook", "What can I cook?", thread_id="talk")
        await mesh.ask("cook", "And then?", thread_id="talk")
    assert "Soup" in model.requests[1].messages[2].content


async def test_whoever_delegates_gets_an_answer_in_a_shape_as_json() -> None:
    class Host(Agent):
        agent_id = "host"
        capabilities = (Capability("hosting"),)
        delegates_to = ("cook",)

        async def run(self, run: Run) -> str:
            return await run.delegate("cook", "Write one.")

    async with mesh_for(Host, Cook, model=ScriptedModel(SOUP_TEXT)) as mesh:
        assert json.loads((await mesh.ask("host", "Have one written.")).text) == SOUP


async def test_an_agent_of_its_own_run_asks_for_shapes_too() -> None:
    class Judge(Agent):
        agent_id = "judge"
        capabilities = (Capability("judging"),)

        async def run(self, run: Run) -> dict[str, Any]:
            words = await run.ask("What is a soup?")
            recipe = await run.ask("Write one.", shape=Recipe)
            return {"words": words, "first": recipe.steps[0].text}

    model = ScriptedModel("A dish.", NO_SOUP, SOUP_TEXT)
    async with mesh_for(Judge, model=model) as mesh:
        outcome = await mesh.ask("judge", "Go.")
    assert outcome.result == {"words": "A dish.", "first": "Boil."}
    assert [request.messages[1].content for request in model.requests] == [
        "What is a soup?",
        "Write one.",
        "Write one.",
    ]


class Words(RootModel[list[str]]):
    """No object."""


@pytest.mark.parametrize("answers", [Words, dict, Recipe(title="t", steps=[]), "Recipe"])
def test_a_shape_that_is_no_class_with_fields_is_refused(answers: Any) -> None:
    with pytest.raises(ConfigError, match="pydantic"):
        type("Odd", (Cook,), {"answers": answers})


class Endless(BaseModel):
    """Holds itself without an end."""

    inner: Endless


class Odd(BaseModel):
    model_config = ConfigDict(json_schema_extra={"items": 5})

    name: str


@pytest.mark.parametrize("shape", [Endless, Odd])
def test_a_shape_that_no_answer_can_have_is_refused_by_name(shape: type[BaseModel]) -> None:
    with pytest.raises(InvalidSchema) as refused:
        response_schema(shape)
    assert refused.value.field == shape.__name__

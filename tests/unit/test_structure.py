"""Answers in a shape: the schema, the ways to ask for it, what is read, told and given up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel

from meshwright import Agent, Capability, tool
from meshwright.errors import ConfigError
from meshwright.models.port import (
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelReply,
    ModelRequest,
    Part,
    StructureInvalid,
    ToolCall,
    Unsupported,
)
from meshwright.models.structure import ANSWER_TOOL, read_answer, repaired, response_schema
from meshwright.run import Run
from meshwright.testing import ScriptedModel, mesh_for, tool_call


class Step(BaseModel):
    """One step."""

    text: str
    minutes: int | None = Field(default=None, description="how long it takes")


class Recipe(BaseModel):
    """A recipe."""

    title: str
    steps: list[Step]
    level: Literal["easy", "hard"] = "easy"


SOUP = {"title": "Soup", "steps": [{"text": "Boil.", "minutes": 10}], "level": "easy"}
SOUP_TEXT = json.dumps(SOUP)
NO_SOUP = '{"title": "Soup", "steps": [{"text": "Boil.", "minutes": "ten"}]}'


class Cook(Agent):
    """Answers with recipes."""

    agent_id = "cook"
    capabilities = (Capability("cooking"),)
    answers = Recipe

    @tool(idempotent=True)
    async def pantry(self) -> list[str]:
        """Tell what there is."""
        return ["leek"]


def said(content: str, **fields: Any) -> ModelReply:
    return ModelReply(content=content, model="m", cost_usd=Decimal(0), **fields)


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


def test_fields_may_have_the_names_of_keywords() -> None:
    schema = response_schema(Tree)
    assert list(schema["properties"]) == ["default", "title", "root", "best", "notes"]
    assert schema["properties"]["best"]["description"] == "the best leaf"
    assert schema["properties"]["notes"]["additionalProperties"] == {"$ref": "#/$defs/Leaf"}


# Nearly right JSON


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=5)
PROSE = st.text(alphabet=st.characters(exclude_characters="{}[](),:\"'", exclude_categories=["Cs"]))


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_valid_json_is_never_changed(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert repaired(text) == text
    assert repaired(f"\n {text}\t") == f"\n {text}\t"


def with_trailing_commas(value: Any) -> str:
    match value:
        case dict():
            inner = (f"{json.dumps(name)}: {with_trailing_commas(each)}, " for name, each in value.items())
            return f"{{{''.join(inner)}}}"
        case list():
            return f"[{''.join(f'{with_trailing_commas(each)} ,' for each in value)}]"
        case bool() | None:
            return repr(value)
        case _:
            return json.dumps(value)


@given(OBJECTS, PROSE, PROSE, st.sampled_from(["", "```json\n", "```\n"]))
def test_what_can_be_meant_in_one_way_alone_is_repaired(
    value: dict[str, Any], before: str, after: str, fence: str
) -> None:
    text = f"{before}\n{fence}{with_trailing_commas(value)}\n{fence and '```'}{after}"
    assert json.loads(repaired(text)) == value


def essence(text: str) -> str:
    """A text without what a repair may change."""
    for python, right in (("True", "true"), ("False", "false"), ("None", "null")):
        text = text.replace(python, right)
    return text.replace(",", "")


PIECES = [*"{}[],:'\"\\ \n-1a", "```", "True", "None", "null", '"a"', '"a":1', '{"a":1}', '"True,}"', "//x"]
MESS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """An object that a repair may mend, with something else in one place."""
    text = with_trailing_commas(draw(OBJECTS))
    begin = draw(st.integers(0, len(text)))
    end = draw(st.integers(begin, min(begin + 2, len(text))))
    return text[:begin] + draw(MESS) + text[end:]


@given(MESS | damaged() | st.text())
def test_a_repair_invents_nothing(text: str) -> None:
    result = repaired(text)
    if result != text:
        assert isinstance(json.loads(result), dict)
        assert essence(result) in essence(text)
        outside = essence(text).replace(essence(result), "", 1)
        assert "{" not in outside and "}" not in outside


@pytest.mark.parametrize(
    "text",
    [
        "{'a': 1}",
        '{"a": 1',
        '{"a": [1, 2}',
        '{"a": 1}}',
        '{"a": 1} {"a": 2}',
        '{"a": 1}\n{"a": 2}',
        '[{"a": 1},]',
        '{"a": 1}, 2',
        '{"a": 1}: 2',
        '} {"a": 1}',
        '"a": {"b": 1}',
        "{a: 1}",
        '{"a" 1}',
        '{"a": 1,, "b": 2}',
        "{,}",
        '{"a": [,]}',
        '{"a": "b\nc"}',
        '{"a": 1 "b": 2}',
        '{"a": NaN}',
        '{"a": "unfinished',
        "I would use {name}: 1",
        "",
    ],
)
def test_what_would_be_a_guess_stays_as_it_is(text: str) -> None:
    assert repaired(text) == text


@pytest.mark.parametrize("unit", ['\\"', '" ', "{", "}", ", ", ",}", '{"a":', "[", " "])
def test_a_repair_takes_no_time_to_speak_of(unit: str) -> None:
    text = f'{{"a": "{unit * 100_000}'
    assert repaired(text) == text  # within the test's time limit, which what grows with the square would miss
    assert repaired(unit * 100_000 + "x") == unit * 100_000 + "x"


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
    assert "Soup" in model.requests[1].messages[0].content


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
        assert len(mesh.events("context.compressed")) == 1
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


# The ways to ask


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
    return "tool" if request.tool_choice == "required" else "instruction"


async def outcomes(model: Picky, count: int, project: Path | None = None) -> list[Any]:
    async with mesh_for(Cook, model=model, project=project) as mesh:
        return [await mesh.ask("cook", "What can I cook?") for _ in range(count)]


@pytest.mark.parametrize(
    ("knows", "ways"),
    [
        (("native",), ["native", "native"]),
        (("tool",), ["native", "tool", "tool"]),
        (("instruction",), ["native", "tool", "instruction", "instruction"]),
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
    assert request.metadata["way"] == "tool"


async def test_an_instruction_holds_the_schema() -> None:
    model = Picky("instruction")
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
    model = Picky("instruction", error=Unsupported("answered 400", what="tools"))
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
    assert model.ways == ["native"]


async def test_where_every_way_is_refused_the_refusal_is_the_end_and_nothing_is_remembered() -> None:
    model = Picky()
    first, _ = await outcomes(model, 2)
    assert first.error.type == "ModelRefused"
    assert model.ways == ["native", "tool", "instruction"] * 2


def told_to(folder: Path, structure: str) -> Path:
    """A project whose cook is asked in a way of its own."""
    (folder / "prompts").mkdir()
    fields = f"tags: [a]\nstructure: {structure}\nvariables: [context]"
    (folder / "prompts/cook.prompt").write_text(f"---\n{fields}\n---\nCook. {{{{context}}}}\n")
    return folder


async def test_a_prompt_says_which_way_comes_first(tmp_path: Path) -> None:
    model = Picky("native", "tool", "instruction")
    await outcomes(model, 1, told_to(tmp_path, "instruction"))
    assert model.ways == ["instruction"]


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

    model = Picky("instruction")
    async with mesh_for(Odd, model=model) as mesh:
        assert (await mesh.ask("cook", "What can I cook?")).result == SOUP
    assert model.ways == ["native", "instruction"]


# Arguments of tools


def keeps(*seen: Callable[[str], None]) -> type[Agent]:
    """An agent whose tool gives what it was called with to whoever wants to see it."""

    class Keeper(Agent):
        agent_id = "keeper"
        capabilities = (Capability("keeping"),)

        @tool(idempotent=True)
        async def keep(self, word: str, loud: bool = False) -> str:
            """Keep a word."""
            for each in seen:
                each(f"{word} {loud}")
            return "kept"

    return Keeper


@pytest.mark.parametrize(
    "arguments",
    ['{"word": "True,}", "loud": True,}', 'Sure:\n```json\n{"word": "True,}", "loud": true}\n```'],
)
async def test_nearly_right_arguments_are_read_as_they_are_meant(arguments: str) -> None:
    seen: list[str] = []
    again = ToolCall(id="", name="keep", arguments='{"loud": true, "word": "True,}"}')
    model = ScriptedModel(ToolCall(id="", name="keep", arguments=arguments), again, "Done.")
    async with mesh_for(keeps(seen.append), model=model) as mesh:
        assert (await mesh.ask("keeper", "Keep it.")).text == "Done."
    assert seen == ["True,} True"]  # and the repeat is known as one


async def test_calls_of_one_reply_are_each_checked_and_each_answered() -> None:
    seen: list[str] = []
    calls = [
        tool_call("keep", word="one"),
        ToolCall(id="", name="keep", arguments="{'word': 'two'}"),
        tool_call("keep", word=3),
        tool_call("keep", word="four"),
    ]
    model = ScriptedModel(calls, "Done.")
    async with mesh_for(keeps(seen.append), model=model) as mesh:
        await mesh.ask("keeper", "Keep them.")
    told = [message.content for message in model.requests[-1].messages if message.role == "tool"]
    assert seen == ["one False", "four False"]
    assert [told[0], told[3]] == ["kept", "kept"]
    assert "keep was not run" in told[1]
    assert "word: Input should be a valid string" in told[2]

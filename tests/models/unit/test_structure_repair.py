"""Nearly right JSON is repaired where it can be meant in one way alone, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright import Agent, Capability, tool
from meshwright.models.port import ToolCall
from meshwright.models.structure import repaired
from meshwright.testing import ScriptedModel, mesh_for, tool_call

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
    async with mesh_for(keeps(seen.append), model=model, agents={"max_repeats": 2}) as mesh:
        assert (await mesh.ask("keeper", "Keep it.")).text == "Done."
        assert mesh.events("limit.no_progress")  # the repeat is known as one
    assert seen == ["True,} True"] * 2


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
    assert sorted(seen) == ["four False", "one False"]
    assert [told[0], told[3]] == ["kept", "kept"]
    assert "keep was not run" in told[1]
    assert "word: Input should be a valid string" in told[2]

"""The built-in model's cost: no request freezes it, whoever sends it."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.core.schema_checks import InvalidSchema, check_schema
from meshwright.models.offline_model import OfflineModel
from meshwright.models.offline_text import MAX_STEPS, SchemaFiller
from meshwright.models.port import ChatMessage, ModelRequest, ToolCall
from tests.support.offline_conversation import ALL

SIZE = 100_000
MAX_RATIO = 12
PROSE = (
    "The mesh keeps what it accepts, and an agent that stops goes on later. It reads docs/design.md too.\n"
)
PATTERNS = [
    *("a-", "1.", "-", "--", "@a.b", "a/", "a.", ".", "./", "../", "A", "A_", "a_", "[(", "(", "=", "`"),
    *("```", '"""', "http://", "http://a.", "in", "of/", "one", "1", "#", ")", "::", "->", "*", "**", "{"),
]
SPACED = [
    " ",
    "\n",
    "\t",
    "in ",
    "in the ",
    "1 ",
    ". ",
    ") ",
    "recent ",
    "a- ",
    "- ",
    "remember: ",
    "A b. (",
    "# a",
]


def request_with(text: str, role: str) -> ModelRequest:
    question = ChatMessage(role="user", content="Which files does the mesh keep?")
    call = ToolCall(id="c", name="read_file", arguments='{"path": "a.md"}')
    messages: dict[str, tuple[ChatMessage, ...]] = {
        "user": (ChatMessage(role="user", content=text),),
        "system": (ChatMessage(role="system", content=text), question),
        "tool": (
            question,
            ChatMessage(role="assistant", tool_calls=(call,)),
            ChatMessage(role="tool", content=text, tool_call_id="c"),
        ),
    }
    return ModelRequest(messages=messages[role], user="tester", tools=ALL)


def seconds(text: str, role: str) -> float:
    began = time.thread_time()
    OfflineModel().reply(request_with(text, role))
    return time.thread_time() - began


@pytest.mark.parametrize("role", ["user", "system", "tool"])
def test_no_text_takes_much_longer_than_prose_of_its_size(role: str) -> None:
    prose = max(0.01, *(seconds((PROSE * SIZE)[:SIZE], role) for _ in range(2)))
    for pattern in [*PATTERNS, *SPACED]:
        text = pattern * (SIZE // len(pattern))
        taken = seconds(text, role)
        assert taken <= MAX_RATIO * prose, f"{pattern!r}: {taken:.2f} s, prose {prose:.2f} s"


def nested(depth: int) -> Any:
    return {"type": "array", "minItems": 1, "items": nested(depth - 1)} if depth else {"type": "string"}


def doubling(levels: int) -> dict[str, Any]:
    names = {f"L{n}": {"allOf": [{"$ref": f"#/$defs/L{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/L0", "$defs": {**names, f"L{levels}": {"type": "string"}}}


def ten_each(levels: int) -> dict[str, Any]:
    names = list("abcdefghij")
    parts = {
        f"L{n}": {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/L{n + 1}"} for name in names},
            "required": names,
        }
        for n in range(levels)
    }
    return {"$ref": "#/$defs/L0", "$defs": {**parts, f"L{levels}": {"type": "string"}}}


@pytest.mark.parametrize(
    "schema",
    [
        ten_each(12),
        doubling(30),
        nested(40),
        {"type": "array", "minItems": 100_000_000, "items": {"type": "string"}},
        {"type": "array", "minItems": 10**300, "items": {"type": "object"}},
        {"type": "string", "minLength": 10**9},
        {"type": "integer", "minimum": 1e300, "multipleOf": 1e-300},
        {"type": "number", "minimum": 2, "maximum": 1},
        {"type": "array", "minItems": 3_000, "items": {"const": "x" * 10_000}},
    ],
)
def test_a_value_too_large_or_impossible_is_refused_within_the_steps(schema: dict[str, Any]) -> None:
    check_schema(schema, "response_format")
    filler = SchemaFiller(schema, [PROSE] * 500, "What does the mesh keep?")
    with pytest.raises(InvalidSchema) as refused:
        filler.value()
    assert refused.value.field == "response_format"
    assert len(filler.texts) <= 50


def test_an_optional_circle_is_filled_within_the_steps() -> None:
    names = {name: {"$ref": "#"} for name in "abcdefghij"}
    filler = SchemaFiller({"type": "object", "properties": names}, [PROSE], "?")
    assert isinstance(filler.value(), dict)
    assert filler.steps <= MAX_STEPS


KEYWORDS = [
    *("type", "items", "properties", "required", "allOf", "anyOf", "oneOf", "$ref", "enum", "const"),
    *("minimum", "maximum", "exclusiveMinimum", "multipleOf", "minItems", "maxItems", "minLength"),
    *("maxLength", "format", "description", "default", "additionalProperties"),
]
ATOMS = st.one_of(
    st.sampled_from(["string", "object", "array", "integer", "number", "null", "#", "#/properties/a", "x"]),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
)
SCHEMAS = st.recursive(
    ATOMS,
    lambda parts: st.one_of(
        st.lists(parts, max_size=4),
        st.dictionaries(st.sampled_from([*KEYWORDS, "a", "b"]), parts, max_size=5),
    ),
    max_leaves=25,
)


@given(schema=st.dictionaries(st.sampled_from(KEYWORDS), SCHEMAS, max_size=6))
def test_any_document_is_filled_or_refused_as_a_schema(schema: dict[str, Any]) -> None:
    filler = SchemaFiller(schema, ["It is 7 of 12."], "How many?")
    try:
        check_schema(schema, "response_format")
        filler.value()
    except InvalidSchema as error:
        assert error.field == "response_format"
    else:
        assert filler.steps <= MAX_STEPS

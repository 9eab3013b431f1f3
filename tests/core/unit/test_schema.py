"""JSON schemas: what is wrong with an answer, said field by field."""

from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from meshwright.core.schema import described, described_fields, faults, with_defaults


class Stage(BaseModel):
    name: str = Field(min_length=1)
    percent: int = Field(ge=1, le=100)


class Decision(BaseModel):
    model_config = {"extra": "forbid"}

    approve: bool
    mode: Literal["now", "tonight"] = "now"
    stages: list[Stage] = Field(default=[], max_length=2)
    until: datetime | None = None
    tag: Annotated[str, Field(pattern="^v[0-9]+$")] = "v1"


SCHEMA = Decision.model_json_schema()


@pytest.mark.parametrize(
    "answer",
    [
        {"approve": True},
        {"approve": False, "mode": "tonight", "until": None, "tag": "v20"},
        {"approve": True, "stages": [{"name": "a", "percent": 1}, {"name": "b", "percent": 100}]},
    ],
)
def test_an_answer_that_fits_has_no_faults(answer: Any) -> None:
    assert faults(SCHEMA, answer) == []
    Decision.model_validate(answer)


@pytest.mark.parametrize(
    ("answer", "path", "message"),
    [
        ("yes", "", "must be an object"),
        ({}, "approve", "is required"),
        ({"approve": 1}, "approve", "must be true or false"),
        ({"approve": True, "mode": "never"}, "mode", 'must be "now" or "tonight"'),
        ({"approve": True, "stages": [{"name": "a"}]}, "stages.0.percent", "is required"),
        ({"approve": True, "stages": [{"name": "", "percent": 3}]}, "stages.0.name", "must not be empty"),
        (
            {"approve": True, "stages": [{"name": "a", "percent": 101}]},
            "stages.0.percent",
            "must be at most 100",
        ),
        ({"approve": True, "stages": [1, 2, 3]}, "stages", "must have at most 2 items"),
        ({"approve": True, "until": 7}, "until", "must be text or null"),
        ({"approve": True, "tag": "1"}, "tag", "must match ^v[0-9]+$"),
        ({"approve": True, "aprove": 1}, "aprove", "is not a field of it"),
    ],
)
def test_a_wrong_answer_names_the_field(answer: Any, path: str, message: str) -> None:
    found = faults(SCHEMA, answer)
    assert found[0].path == path
    assert found[0].message.startswith(message)


def test_one_choice_of_several_is_described_by_its_own_faults() -> None:
    schema = {"anyOf": [SCHEMA["$defs"]["Stage"], {"type": "null"}]}
    assert [fault.path for fault in faults(schema, {"name": "a"})] == ["percent"]


@pytest.mark.parametrize("schema", [None, True, {}, {"$ref": "#/nowhere"}, {"type": 7}, {"anyOf": "x"}])
def test_a_schema_that_says_nothing_allows_everything(schema: Any) -> None:
    assert faults(schema, {"any": ["thing"]}) == []


def test_a_schema_within_itself_ends() -> None:
    assert faults({"$ref": "#"}, 1) == []
    assert described({"$ref": "#"}) == "any JSON"


def test_a_part_that_refers_to_the_whole_schema_is_checked() -> None:
    tree = {"type": "object", "properties": {"child": {"$ref": "#"}}}
    assert faults(tree, {"child": {"child": {}}}) == []
    assert faults(tree, {"child": {"child": 3}}) == [("child.child", "must be an object")]


def test_the_form_of_an_answer_is_said_in_words() -> None:
    assert described({"type": "string"}) == "text"
    assert described(None) == "any JSON"
    assert '{"name": text, "percent": a whole number from 1 to 100}' in described(SCHEMA)
    assert described(SCHEMA).startswith('{"approve": true or false, "mode": "now" or "tonight" (optional)')


def test_defaults_fill_what_is_missing() -> None:
    assert with_defaults(SCHEMA, {"approve": True})["mode"] == "now"
    assert with_defaults(SCHEMA, [1]) == [1]


def test_a_short_schema_cannot_make_a_check_endless() -> None:
    doubling = {"anyOf": [{"properties": {"x": {"$ref": "#"}}, "required": ["y"]}] * 2}
    deep: dict[str, Any] = {}
    for _ in range(30):
        deep = {"x": deep}
    assert faults(doubling, deep) == [("", "takes too many steps to check against its schema")]
    assert len(described({"anyOf": [{"$ref": "#"}] * 1_000})) < 100_000


def test_a_long_value_may_take_as_many_steps_as_it_has_parts() -> None:
    numbers = {"items": {"anyOf": [{"type": "null"}, {"type": "integer"}]}}
    assert faults(numbers, [1] * 20_000) == []
    words = "must be null or a whole number"
    assert faults(numbers, [*[1] * 100, "1"]) == [("100", words)]


def test_a_pattern_that_a_caller_sent_takes_linear_time() -> None:
    assert faults({"pattern": "^(a+)+$"}, "a" * 5_000 + "!") == [("", "must match ^(a+)+$")]
    assert faults({"pattern": "(?=a)b"}, "c") == []  # of another dialect


def test_the_fields_of_an_object_are_described_in_a_line_each() -> None:
    assert [*described_fields(SCHEMA)][:3] == [
        "approve: true or false (required)",
        'mode: "now" or "tonight" (default "now")',
        'stages: [{"name": text, "percent": a whole number from 1 to 100}, ...] (default [])',
    ]
    about = {"properties": {"tag": {"$ref": "#/$defs/Tag"}}, "$defs": {"Tag": {"description": "of git"}}}
    assert [*described_fields(about)] == ["tag: any JSON, of git"]
    assert [*described_fields(None)] == []

"""Forms of the built-in model: JSON by a schema."""

import json
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from meshwright.models.errors import ModelRefused
from meshwright.models.offline_model import OfflineModel
from meshwright.models.offline_text import SchemaFiller
from meshwright.models.port import ChatMessage, ModelRequest

MEMORIES = """\
RELEVANT_MEMORIES:
- The risk of the migration is high, since 3 tables have no index.
- The title of the report is Nightly Migration.
"""


class Risk(StrEnum):
    LOW = "low"
    HIGH = "high"


class Finding(BaseModel):
    name: str = Field(min_length=3, max_length=40)
    line: int = Field(ge=1, le=99)


class Report(BaseModel):
    title: str = Field(description="title of the report")
    risk: Risk
    tables: int = Field(description="tables without index", ge=0)
    share: Annotated[float, Field(gt=0, lt=1)]
    done: bool
    kind: Literal["report"]
    findings: list[Finding] = Field(min_length=1, max_length=2)
    notes: list[str] = Field(min_length=2)
    parent: "Report | None" = None
    size: int | str
    limits: dict[str, int] = {}


async def fill(schema: dict[str, Any], text: str = "Report on the migration.") -> str:
    messages = (ChatMessage(role="system", content=MEMORIES), ChatMessage(role="user", content=text))
    request = ModelRequest(messages=messages, user="tester", response_schema=schema)
    return (await OfflineModel().complete(request)).content


async def test_a_schema_is_filled_so_that_its_model_accepts_it() -> None:
    report = Report.model_validate_json(await fill(Report.model_json_schema(), "Report on the high risk."))
    assert report.title in MEMORIES
    assert report.risk is Risk.HIGH


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "object", "required": ["a"]},
        {"$ref": "#/$defs/A", "$defs": {"A": {"type": "integer"}}},
        {"type": ["null", "integer"]},
        {"anyOf": [{"type": "null"}]},
        {"type": "object", "properties": {"when": {"type": "string", "format": "date-time"}, "x": True}},
        {
            "allOf": [
                {"properties": {"a": {"type": "string"}}, "required": ["a"]},
                {"properties": {"b": {"const": 1}}},
            ]
        },
    ],
)
async def test_an_odd_schema_gets_json_all_the_same(schema: dict[str, Any]) -> None:
    json.loads(await fill(schema))


FIELDS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=6),
    st.one_of(
        st.builds(
            lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
            st.integers(-50, 50),
            st.integers(0, 9),
        ),
        st.builds(
            lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size},
            st.integers(0, 9),
            st.integers(0, 9),
        ),
        st.builds(lambda step: {"type": "integer", "multipleOf": step}, st.integers(1, 9)),
        st.builds(lambda values: {"enum": values}, st.lists(st.text(max_size=5), min_size=1, max_size=3)),
    ),
    max_size=5,
)


@given(fields=FIELDS, text=st.text(max_size=60))
def test_limits_of_a_schema_hold_for_any_material(fields: dict[str, Any], text: str) -> None:
    schema = {"type": "object", "properties": fields, "required": list(fields)}
    value = SchemaFiller(schema, [text, "It is 7 of 12."], text).value()
    for name, limits in fields.items():
        made = value[name]
        if "enum" in limits:
            assert made in limits["enum"]
        elif limits["type"] == "string":
            assert limits["minLength"] <= len(made) <= limits["maxLength"]
        else:
            assert limits.get("minimum", made) <= made <= limits.get("maximum", made)
            assert made % limits.get("multipleOf", 1) == 0


async def test_a_context_is_not_shortened_but_stays_whole() -> None:
    messages = (ChatMessage(role="user", content=MEMORIES),)
    request = ModelRequest(messages=messages, user="context-service", tags=("compression",))
    with pytest.raises(ModelRefused, match="stays whole"):
        await OfflineModel().complete(request)

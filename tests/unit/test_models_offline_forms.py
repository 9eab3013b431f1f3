"""Forms of the built-in model: JSON by a schema, and a context made shorter."""

import json
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from meshwright.context.plan import DEFAULT_RULES, CompressRequest, plan
from meshwright.context.service import problem
from meshwright.context.text import count_tokens
from meshwright.models.offline import OfflineModel
from meshwright.models.offline_text import SchemaFiller, shorten
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


def context(memories: int, **fields: Any) -> CompressRequest:
    thing = "The store keeps records of turn {0} in table number {0} and reads them in order of their age."
    return CompressRequest(
        sender="orchestrator",
        receiver="architect-agent",
        project_id="mesh",
        task_summary="Decide how the event log is stored. It has to survive a crash, and it grows.",
        workflow_state={"phase": "PLANNING"},
        sender_memories=[{"text": thing.format(number), "score": 0.5} for number in range(memories)],
        conversation_snippet=[
            f"user: We met on 2026-11-{day:02} at noon to talk of the store." for day in range(1, 20)
        ],
        constraints=["No service may be needed.", "Use SQLite 3.40.1."],
        known_failures=["aiosqlite did not group commits."],
        sender_questions=["Which synchronous mode is right?"],
        **fields,
    )


async def compress(text: str, max_tokens: int = 450) -> str:
    system = "You shorten the context. Stay under 300 tokens. NEVER invent anything."
    messages = (ChatMessage(role="system", content=system), ChatMessage(role="user", content=text))
    request = ModelRequest(
        messages=messages, user="context-service", tags=("compression",), max_tokens=max_tokens
    )
    return (await OfflineModel(count_tokens=count_tokens).complete(request)).content


async def test_a_context_is_compressed_so_that_the_context_service_accepts_it() -> None:
    made = plan(context(60), DEFAULT_RULES)
    text = await compress(made.text)
    assert problem(text, made) is None
    assert count_tokens(text) <= 300 < made.output_tokens


async def test_compression_never_leaves_out_constraints_failures_and_questions() -> None:
    made = plan(context(60), DEFAULT_RULES)
    text = await compress(made.text, max_tokens=50)
    for kept in (
        "No service may be needed.",
        "SQLite 3.40.1",
        "aiosqlite",
        "Which synchronous mode",
        "phase: PLANNING",
    ):
        assert kept in text


async def test_of_memories_compression_keeps_those_about_the_task() -> None:
    request = context(30)
    memories = [
        *request.sender_memories,
        {"text": "The event log is stored in a table of its own.", "score": 0.9},
    ]
    made = plan(request.model_copy(update={"sender_memories": memories}), DEFAULT_RULES)
    assert "a table of its own" in await compress(made.text, max_tokens=200)


@pytest.mark.parametrize(
    "leak", ["seen at 2026-11-20T10:00", "id 01J9ZK3V5N8Q2W4R6T7Y9B0C1D", "score: 0.93", "task_id: 7"]
)
def test_compression_passes_on_no_time_id_or_score_of_a_memory(leak: str) -> None:
    text = f"METADATA:\nsender: a\nDOMAIN_CONTEXT:\n- Do it.\nRELEVANT_MEMORIES:\n- {leak} it was.\n- Fine."
    shorter = shorten(text, 300, count_tokens)
    assert leak not in shorter and "- Fine." in shorter


def test_a_context_that_fits_stays_as_it_is() -> None:
    text = "METADATA:\nsender: a\nDOMAIN_CONTEXT:\n- Do it.\n  In two lines.\nCONSTRAINTS:\n- None."
    assert shorten(text, 300, count_tokens) == text


@given(text=st.text(max_size=300), max_tokens=st.integers(0, 50))
def test_compression_of_any_text_adds_no_word_to_it(text: str, max_tokens: int) -> None:
    shorter = shorten(text, max_tokens, count_tokens)
    assert set(shorter.split()) <= set(text.split()) | {":"}

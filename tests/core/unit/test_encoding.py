"""Values become JSON the same way, whichever encoder is the cheaper one for them."""

from __future__ import annotations

import math
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest
from pydantic_core import from_json, to_json

from meshwright.core.encoding import as_json, encode, plain, stable_json
from meshwright.core.errors import InvalidInput
from meshwright.core.events import Event
from meshwright.core.messages import Fault, ScoreCard
from meshwright.models.port import CallContext, ChatMessage, ModelRequest, ToolCall, ToolSpec

NOW = datetime(2026, 3, 1, 12, 30, 0, 5, tzinfo=UTC)
CARD = ScoreCard(agent_id="a", capability="c", score=0.5, weight=1.0, health=1.0, success=0.5)
EVENT = Event(id="x/1", event_type="happened", topic="t", time=NOW, payload={"a": 1})


class Colour(StrEnum):
    RED = "red"


VALUES: list[Any] = [
    {"attempt": 1, "fence": 2, "owner": "worker", "nothing": None, "sure": True, "share": 0.25},
    {"at": NOW, "card": CARD, "faults": [Fault(type="E", message="broken \u00e9\u4f60\U0001f600")]},
    {"bytes": b"as text", "among": [1, {"others": b"too"}]},
    {"event": EVENT, "events": [EVENT]},
    {"amount": Decimal("1.50"), "tiny": Decimal("1e-9"), "id": UUID(int=1), "time": timedelta(seconds=1)},
    {1: "a number as a name", "inner": {2.5: "another"}},
    {"no number": [math.nan, math.inf, -math.inf], "large": [2**70, -(2**63)]},
    OrderedDict(b=1, a=[OrderedDict(c=(1, 2))]),
    {"colour": Colour.RED, "set": {1}, "tuple": (1, "two", None)},
    [],
    "text",
    7,
    None,
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_every_value_is_written_as_pydantic_writes_it(value: Any) -> None:
    expected = from_json(to_json(value, inf_nan_mode="null", fallback=plain))

    assert from_json(as_json("a turn", value)) == expected
    assert from_json(encode(value)) == expected


@pytest.mark.parametrize(
    "value",
    [{"half": "\ud800"}, {"a": [object()]}, {"a": {"b": print}}],
    ids=["half a character", "a foreign object", "a function"],
)
def test_what_json_cannot_hold_is_refused_or_mended(value: Any) -> None:
    with pytest.raises(InvalidInput, match="a turn sends what cannot be written as JSON"):
        as_json("a turn", value)

    assert set(from_json(encode(value))) == set(value)


def test_a_circle_is_refused_or_mended() -> None:
    circle: dict[str, Any] = {"name": "circle"}
    circle["inner"] = [circle]

    with pytest.raises(InvalidInput):
        as_json("a turn", circle)
    assert from_json(encode(circle)) == {"name": "circle", "inner": ["..."]}


SAID = ModelRequest(
    messages=(
        ChatMessage(role="system", content="Answer.\n\x00 \u00e9\u4f60"),
        ChatMessage(role="assistant", tool_calls=(ToolCall(id="1", name="look", arguments="{}"),)),
    ),
    user="simple-agent",
    context=CallContext(task_id="t", budget_usd=Decimal("0.0000001"), record=print, step=3),
    temperature=1e-7,
)
SCHEMA = {"type": "object", "properties": {"n": {"maximum": 1e20, "multipleOf": 0.1, "title": "a e1 b"}}}


@pytest.mark.parametrize(
    "request_",
    [
        SAID,
        SAID.model_copy(update={"tools": (ToolSpec(name="look", description="", parameters=SCHEMA),)}),
        SAID.model_copy(update={"response_schema": SCHEMA, "output_mode": "tool", "params": {"top_p": 0.5}}),
    ],
    ids=["plain", "with tools", "with a schema"],
)
def test_a_request_is_hashed_by_the_bytes_that_older_journals_have(request_: ModelRequest) -> None:
    assert stable_json(request_.asked()) == to_json(request_, fallback=plain)
    assert b"output_mode" not in stable_json(request_.asked())


@pytest.mark.parametrize("value", [*VALUES[:2], {"n": 1e16, "m": [1e-9, 123456789012345678.0]}], ids=range(3))
def test_what_is_hashed_is_written_as_ever(value: Any) -> None:
    assert stable_json(value) == to_json(value, fallback=plain)

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

from meshwright.core.encoding import as_json, encode, plain
from meshwright.core.errors import InvalidInput
from meshwright.core.messages import Event, Fault, ScoreCard

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

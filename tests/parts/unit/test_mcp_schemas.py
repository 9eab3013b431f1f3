"""Schemas of strangers' tools as they are in the wild, made right for strict providers."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright.parts.mcp.schemas import repaired_schema


def of_field(schema: Any) -> Any:
    return repaired_schema({"type": "object", "properties": {"x": schema}})["properties"]["x"]


@pytest.mark.parametrize(
    ("schema", "repaired"),
    [
        ({"type": "array"}, {"type": "array", "items": {}}),
        ({"type": "array", "items": []}, {"type": "array", "items": {}}),
        ({"type": "array", "items": [{"type": "string"}]}, {"type": "array", "items": {"type": "string"}}),
        ({"enum": "A"}, {"enum": ["A"]}),
        ({"anyOf": [{"type": "array"}]}, {"anyOf": [{"type": "array", "items": {}}]}),
        ({"type": "string", "enum": ["a"]}, {"type": "string", "enum": ["a"]}),
        (True, True),
    ],
)
def test_a_field_is_repaired(schema: Any, repaired: Any) -> None:
    assert of_field(schema) == repaired


def test_required_among_the_properties_moves_beside_them() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "required": ["a"]}}
    assert repaired_schema(schema) == {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
    }


@pytest.mark.parametrize("schema", [["a"], {"properties": ["a"]}, {"properties": {"a": "string"}}])
def test_a_schema_that_cannot_be_meant_is_refused_with_its_place(schema: Any) -> None:
    with pytest.raises(ValueError, match="its schema"):
        repaired_schema(schema)

"""Schemas of strangers' tools, as strict providers take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SCHEMAS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAX_DEPTH = 100


def repaired_schema(schema: Any) -> dict[str, Any]:
    """Returns the schema of a tool's arguments with what servers get wrong made right.

    Arrays get `items`, a list of these becomes the first, `required` among the properties moves beside them,
    a single value of `enum` becomes a list. Raises ValueError, with the place, for what cannot be meant.
    """
    if schema is None:
        return {"type": "object", "properties": {}}
    return _repaired(schema, "its schema", 0)


def _repaired(schema: Any, place: str, depth: int) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise ValueError(f"{place} is {type(schema).__name__}, not a schema")
    if depth > _MAX_DEPTH:
        raise ValueError(f"{place} is over {_MAX_DEPTH} levels deep")
    repaired = {name: part for name, part in schema.items() if name not in ("items", *_SCHEMAS, *_LISTS)}
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and isinstance(properties.get("required"), list):
        repaired.setdefault("required", properties["required"])
        schema = {**schema, "properties": {k: v for k, v in properties.items() if k != "required"}}
    for name in _SCHEMAS:
        if name in schema:
            repaired[name] = _parts(schema[name], f"{place}.{name}", depth)
    for name in _LISTS:
        if isinstance(schema.get(name), list):
            parts = enumerate(schema[name])
            repaired[name] = [_part(part, f"{place}.{name}[{at}]", depth) for at, part in parts]
    if "items" in schema or schema.get("type") == "array":
        items = schema.get("items", {})
        items = (items[0] if items else {}) if isinstance(items, list) else items
        repaired["items"] = _part(items, f"{place}.items", depth)
    if "enum" in repaired and not isinstance(repaired["enum"], list):
        repaired["enum"] = [repaired["enum"]]
    return repaired


def _parts(parts: Any, place: str, depth: int) -> dict[str, Any]:
    if not isinstance(parts, Mapping):
        raise ValueError(f"{place} is {type(parts).__name__}, not an object of schemas")
    return {name: _part(part, f"{place}.{name}", depth) for name, part in parts.items()}


def _part(part: Any, place: str, depth: int) -> Any:
    return part if isinstance(part, bool) else _repaired(part, place, depth + 1)

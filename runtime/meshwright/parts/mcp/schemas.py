"""Schemas of strangers' tools, as strict providers take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SCHEMAS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("additionalProperties", "not", "contains", "if", "then", "else")
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
    schema = _with_required(schema)
    repaired = dict(schema)
    for name in filter(schema.__contains__, _SCHEMAS):
        repaired[name] = _parts(schema[name], f"{place}.{name}", depth)
    for name in filter(schema.__contains__, _LISTS):
        repaired[name] = _list(schema[name], f"{place}.{name}", depth)
    for name in filter(schema.__contains__, _SINGLE):
        repaired[name] = _part(schema[name], f"{place}.{name}", depth)
    if "items" in schema or "array" in _types(schema):
        items = schema.get("items", {})
        items = (items[0] if items else {}) if isinstance(items, list) else items
        repaired["items"] = _part(items, f"{place}.items", depth)
    if "enum" in repaired and not isinstance(repaired["enum"], list):
        repaired["enum"] = [repaired["enum"]]
    return repaired


def _types(schema: Mapping[str, Any]) -> list[Any]:
    types = schema.get("type")
    return types if isinstance(types, list) else [types]


def _with_required(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with the names of its required properties in their place, as a list."""
    fields = dict(schema)
    properties = fields.get("properties")
    if isinstance(properties, Mapping) and isinstance(properties.get("required"), list):
        fields.setdefault("required", properties["required"])
        fields["properties"] = {name: part for name, part in properties.items() if name != "required"}
    if isinstance(fields.get("required"), str):
        fields["required"] = [fields["required"]]
    elif isinstance(fields.get("required"), bool):  # of a field, as the third draft had it
        del fields["required"]
    return fields


def _list(parts: Any, place: str, depth: int) -> list[Any]:
    if not isinstance(parts, list):
        raise ValueError(f"{place} is {type(parts).__name__}, not a list of schemas")
    return [_part(part, f"{place}[{at}]", depth) for at, part in enumerate(parts)]


def _parts(parts: Any, place: str, depth: int) -> dict[str, Any]:
    if not isinstance(parts, Mapping):
        raise ValueError(f"{place} is {type(parts).__name__}, not an object of schemas")
    return {name: _part(part, f"{place}.{name}", depth) for name, part in parts.items()}


def _part(part: Any, place: str, depth: int) -> Any:
    return part if isinstance(part, bool) else _repaired(part, place, depth + 1)

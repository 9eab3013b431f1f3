"""JSON schemas from outside: whether one is a schema, some value fits it, and it is small enough."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Any

from meshwright.core.errors import InvalidInput
from meshwright.core.schema import json_types, target

_MAX_DEPTH = 64
MAX_SCHEMA_BYTES = 16_384
_MAX_NODES = 10_000
_MAX_FOREIGN_CHARS = 64_000
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_SCHEMA = frozenset(
    {"additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames"}
    | {"then", "unevaluatedItems", "unevaluatedProperties"}
)
_SCHEMA_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_MAP = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})


class InvalidSchema(InvalidInput):
    """A JSON schema that is none, that no value fits, or that is too large."""

    status = 400


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, float)) and _is_number(value) and value >= 0 and value == int(value)


def _is_type(value: Any) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return bool(kinds) and all(isinstance(kind, str) and kind in _TYPES for kind in kinds)


_Rule = tuple[Callable[[Any], bool], str]
_COUNT: _Rule = _is_count, "a whole number from 0"
_TEXT: _Rule = lambda value: isinstance(value, str), "text"
_LIMIT: _Rule = lambda value: isinstance(value, bool) or _is_number(value), "a number"  # as in draft 4
_RULES: dict[str, _Rule] = {
    "type": (_is_type, f"one or several of {', '.join(_TYPES)}"),
    "required": (
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "a list of names",
    ),
    "enum": (lambda value: isinstance(value, list) and bool(value), "a list of values"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    **dict.fromkeys(("minimum", "maximum"), (_is_number, "a number")),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), _COUNT),
    **dict.fromkeys(("minProperties", "maxProperties"), _COUNT),
    **dict.fromkeys(("description", "format", "pattern", "title", "$ref"), _TEXT),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), _LIMIT),
}


def check_schema(schema: Any, field: str) -> None:
    """Check that this is a JSON schema which some value fits; takes time linear in its size.

    References must stay within the schema. Raises InvalidSchema, which names `field` and the place in it.
    """
    must: dict[int, list[int]] = {}
    waiting = [("", schema, 0)]
    count = 0
    while waiting:
        place, node, depth = waiting.pop()
        count += 1
        if count > _MAX_NODES or depth > _MAX_DEPTH:
            remedy = f"it may have {_MAX_NODES:,} parts, {_MAX_DEPTH} deep"
            raise InvalidSchema(f"{field}: the schema is too large", remedy=remedy, field=field)
        if isinstance(node, bool):
            continue
        problem = _problem(node, schema)
        if problem:
            where = f"{field}{place}"
            raise InvalidSchema(f"{where}: {problem}", remedy="give a JSON schema", field=field)
        must[id(node)] = [id(part) for part in _needed(node, schema)]
        waiting += [(f"{place}.{name}", part, depth + 1) for name, part in _parts(node)]
    try:
        TopologicalSorter(must).prepare()
    except CycleError:
        what = f"{field}: no value fits, since the schema requires itself without an end"
        remedy = "make the field that closes the circle optional, or let it be null"
        raise InvalidSchema(what, remedy=remedy, field=field) from None


def _problem(node: Any, root: Any) -> str:
    if not isinstance(node, dict):
        return f"this is no schema but {type(node).__name__}"
    for key, value in node.items():
        rule = _RULES.get(key)
        if rule and not rule[0](value):
            return f"{key} must be {rule[1]}"
        if key in _SCHEMA_MAP and not isinstance(value, dict):
            return f"{key} must be an object of schemas"
        if key in _SCHEMA_LIST and not (isinstance(value, list) and value):
            return f"{key} must be a list of schemas"
    if "$ref" in node and not isinstance(target(root, node["$ref"]), (dict, bool)):
        return f"the reference {node['$ref'][:80]!r} leads nowhere in this schema"
    return ""


def _parts(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if key in _SCHEMA_LIST or (key == "items" and isinstance(value, list)):
            yield from ((f"{key}.{number}", part) for number, part in enumerate(value))
        elif key in _SCHEMA:
            yield key, value
        elif key in _SCHEMA_MAP:
            yield from ((f"{key}.{name[:80]}", part) for name, part in value.items())


def _needed(node: Mapping[str, Any], root: Any) -> Iterator[Any]:
    """The parts that a value of this schema cannot be without."""
    if "$ref" in node:
        yield target(root, node["$ref"])
    yield from node.get("allOf", ())
    if node.get("type") == "object" and isinstance(properties := node.get("properties", {}), dict):
        yield from (properties[name] for name in node.get("required", ()) if name in properties)
    if node.get("type") == "array" and node.get("minItems", 0) and isinstance(node.get("items"), dict):
        yield node["items"]


def object_schema(schema: Any) -> dict[str, Any]:
    """A copy of a field that is the JSON schema of an object, as plain data.

    Raises ValueError if it is over 16 KB, no schema, or a schema that no object fits.
    """
    if not isinstance(schema, dict):
        raise ValueError("must be a JSON schema: an object")
    try:
        data = json.dumps(schema, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"must be JSON: {error}") from None
    if len(data) > MAX_SCHEMA_BYTES:
        raise ValueError(f"has {len(data):,} bytes; a schema may have {MAX_SCHEMA_BYTES:,}")
    copy = json.loads(data)
    try:
        check_schema(copy, "$")
    except InvalidSchema as error:
        raise ValueError(f"must be a JSON schema; {error.message}") from None
    kinds = json_types(copy)
    if kinds and "object" not in kinds:
        raise ValueError(f"must be the schema of an object, and is that of {' or '.join(kinds)}")
    return copy


def safe_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of a stranger without its patterns, which could take for ever to match.

    Raises ValueError for one that is too large, too deep or takes too many steps to check.
    """
    text = json.dumps(schema)
    if len(text) > _MAX_FOREIGN_CHARS:
        raise ValueError(f"its schema has over {_MAX_FOREIGN_CHARS:,} characters")
    cleaned = _without_patterns(schema, 0)
    if schema.get("type", "object") != "object":
        raise ValueError("its schema is not that of an object")
    if next(islice(_expanded_parts(cleaned, cleaned, 0), _MAX_NODES, None), None) is not None:
        raise ValueError("its schema refers to itself in too many ways")
    return {"type": "object", "properties": {}, **cleaned}


def _without_patterns(value: Any, depth: int, *, is_schema: bool = True) -> Any:
    """The value without `pattern` keywords; properties may be called so."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"its schema is over {_MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        names = ("properties", "$defs", "definitions")
        return {
            name: _without_patterns(part, depth + 1, is_schema=not (is_schema and name in names))
            for name, part in value.items()
            if not (is_schema and name in ("pattern", "patternProperties"))
        }
    if isinstance(value, list):
        return [_without_patterns(part, depth + 1) for part in value]
    return value


def _expanded_parts(schema: Any, root: Any, depth: int) -> Iterator[Any]:
    """The schemas within one, as a check of a value may meet them."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return
    yield schema
    if "$ref" in schema:
        yield from _expanded_parts(target(root, str(schema["$ref"])), root, depth + 1)
    for name, part in schema.items():
        if name in ("properties",) and isinstance(part, Mapping):
            for inner in part.values():
                yield from _expanded_parts(inner, root, depth + 1)
        elif name in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(part, list):
            for inner in part:
                yield from _expanded_parts(inner, root, depth + 1)
        elif name in ("items", "additionalProperties"):
            yield from _expanded_parts(part, root, depth + 1)

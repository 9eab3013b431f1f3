"""JSON schemas from outside, checked before a model is asked to fill one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from meshwright.errors import InvalidInput

MAX_DEPTH = 64
_MAX_NODES = 10_000
TYPES = frozenset({"null", "boolean", "object", "array", "number", "integer", "string"})
SCHEMA = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
SCHEMA_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_MAP = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})


class InvalidSchema(InvalidInput):
    """A JSON schema that is none, that no value fits, or that is too large."""

    status = 400


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(_as_float(value))


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_limit(value: Any) -> bool:
    return isinstance(value, bool) or _is_number(value)


def _is_type(value: Any) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return bool(kinds) and all(isinstance(kind, str) and kind in TYPES for kind in kinds)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


Rule = tuple[Callable[[Any], bool], str]
COUNT: Rule = _is_count, "a whole number from 0"
NUMBER: Rule = _is_number, "a number"
TEXT: Rule = _is_text, "text"
_RULES: dict[str, Rule] = {
    "type": (_is_type, f"one or several of {', '.join(sorted(TYPES))}"),
    "required": (_is_names, "a list of names"),
    "enum": (lambda value: isinstance(value, list) and bool(value), "a list of values"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    **dict.fromkeys(("minimum", "maximum"), NUMBER),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), COUNT),
    **dict.fromkeys(("minProperties", "maxProperties"), COUNT),
    **dict.fromkeys(("description", "format", "pattern", "title", "$ref"), TEXT),
    # Draft 4 has true and false here.
    **dict.fromkeys(
        ("exclusiveMinimum", "exclusiveMaximum"),
        (_is_limit, "a number"),
    ),
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
        if count > _MAX_NODES or depth > MAX_DEPTH:
            raise InvalidSchema(
                f"{field}: the schema is too large",
                remedy=f"it may have {_MAX_NODES:,} parts, {MAX_DEPTH} deep",
                field=field,
            )
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
        raise InvalidSchema(
            f"{field}: no value fits, since the schema requires itself without an end",
            remedy="make the field that closes the circle optional, or let it be null",
            field=field,
        ) from None


def _problem(node: Any, root: Any) -> str:
    if not isinstance(node, dict):
        return f"this is no schema but {type(node).__name__}"
    for key, value in node.items():
        rule = _RULES.get(key)
        if rule and not rule[0](value):
            return f"{key} must be {rule[1]}"
        if key in _SCHEMA_MAP and not isinstance(value, dict):
            return f"{key} must be an object of schemas"
        if key in SCHEMA_LIST and not (isinstance(value, list) and value):
            return f"{key} must be a list of schemas"
    if "$ref" in node and not isinstance(target(root, node["$ref"]), (dict, bool)):
        return f"the reference {node['$ref'][:80]!r} leads nowhere in this schema"
    return ""


def _parts(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if key in SCHEMA_LIST or (key == "items" and isinstance(value, list)):
            yield from ((f"{key}.{number}", part) for number, part in enumerate(value))
        elif key in SCHEMA:
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


def target(root: Any, reference: str) -> Any:
    """What a reference within a schema (`#`, `#/$defs/Name`) points to; None where it leads nowhere."""
    head, *steps = reference.split("/")
    if head != "#":
        return None
    node = root
    for step in steps[: MAX_DEPTH * 2]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(name)
        elif isinstance(node, list) and name.isdecimal() and len(name) < 6 and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node

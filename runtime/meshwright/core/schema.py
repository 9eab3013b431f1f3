"""JSON schemas of what people, callers and models send: faults of a value, its defaults, its form as text.

The keywords are the ones of pydantic. An unknown keyword allows everything: what reads the value into a
type checks the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

_MAX_DEPTH = 64  # of references within one another
_MAX_STEPS = 20_000  # of one check, and more for each part of the value: a short schema can take any number
_STEPS_A_PART = 20
_STEPS_OF_WORDS = 200
_MAX_LISTED = 8  # values of an enumeration, or fields of an object, in a sentence
_MAX_FAULTS = 5  # in a sentence
_WORDS = {
    "string": "text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
Schema = Mapping[str, Any]


class _TooManySteps(Exception):
    """A check has taken as many steps as it may."""


class _SchemaFault(NamedTuple):
    """A fault of one part of a value: its dotted path, empty for the whole, and a clause."""

    path: str
    message: str


def faults(schema: Any, value: Any, path: str = "") -> list[_SchemaFault]:
    """The faults of a value of plain JSON data, at a path; none where it fits the schema."""
    root = schema if isinstance(schema, Mapping) else {}
    try:
        return list(_SchemaCheck(root, value).faults(root, value, path))
    except _TooManySteps:
        return [_SchemaFault(path, "takes too many steps to check against its schema")]


def fault_text(schema_faults: Sequence[_SchemaFault], whole: str = "it") -> str:
    """The first faults as clauses; `whole` is the value where the path is empty."""
    return "; ".join(f"{path or whole} {message}" for path, message in schema_faults[:_MAX_FAULTS])


def with_defaults(schema: Any, value: Any) -> Any:
    """An object with the defaults of the properties that it lacks."""
    if not (isinstance(schema, Mapping) and isinstance(value, dict)):
        return value
    properties = _object(schema.get("properties"))
    missing = {
        name: part["default"]
        for name, part in properties.items()
        if name not in value and isinstance(part, Mapping) and "default" in part
    }
    return {**value, **missing}


def takes_approval(schema: Schema | None) -> bool:
    """Whether a yes or a no with its reason answers a question."""
    return schema is not None and not faults(schema, {"approve": True, "reason": ""})


def described(schema: Any) -> str:
    """The form of a value as text: `text`, or `{"approve": true or false, "reason": text (optional)}`."""
    root = schema if isinstance(schema, Mapping) else {}
    return _described(root, root, 0)


def described_fields(schema: Any) -> Iterator[str]:
    """A line for each field of an object: `version: text (required), the tag that is described`."""
    root = schema if isinstance(schema, Mapping) else {}
    whole = _resolved(root, root)
    for name, part in _object(whole.get("properties")).items():
        field = {**_resolved(part, root), **_object(part)}
        is_required = name in _list(whole.get("required"))
        default = f" (default {_json(field['default'])})" if "default" in field else ""
        about = f", {field['description']}" if field.get("description") else ""
        yield f"{name}: {_described(part, root, 1)}{' (required)' if is_required else default}{about}"


def _described(schema: Any, root: Schema, depth: int) -> str:
    schema = _resolved(schema, root)
    if "const" in schema:
        return _json(schema["const"])
    if isinstance(schema.get("enum"), list):
        return _choice([_json(value) for value in schema["enum"]])
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list) and depth < 4:
            parts = schema[name][: _MAX_LISTED + 1]  # one more than is shown
            return _choice([_described(part, root, depth + 1) for part in parts])
    properties = _object(schema.get("properties"))
    if properties and depth < 4:
        required = schema.get("required", ())
        fields = [
            f'"{name}": {_described(inner, root, depth + 1)}{"" if name in required else " (optional)"}'
            for name, inner in [*properties.items()][:_MAX_LISTED]
        ]
        return "{" + ", ".join([*fields, *(["..."] if len(properties) > _MAX_LISTED else [])]) + "}"
    kinds = _types(schema)
    if kinds == ["array"] and "items" in schema and depth < 4:
        return f"[{_described(schema['items'], root, depth + 1)}, ...]"
    return _choice([_WORDS[kind] + _render_range(schema, kind) for kind in kinds]) if kinds else "any JSON"


def _render_range(schema: Schema, kind: str) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if kind not in ("integer", "number") or (least is None and most is None):
        return ""
    return f" up to {most}" if least is None else f" from {least}{'' if most is None else f' to {most}'}"


class _SchemaCheck:
    """The check of one value against a schema, in a bounded number of steps."""

    def __init__(self, root: Schema, value: Any) -> None:
        self._root = root
        self._value = value
        self._steps, self._most = 0, _MAX_STEPS

    def faults(self, schema: Any, value: Any, path: str, depth: int = 0) -> Iterator[_SchemaFault]:
        self._step()
        if schema is False:
            yield _SchemaFault(path, "is not allowed")
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return
        yield from self._part_faults(schema, value, path, depth)
        yield from _faults_of_choice(schema, value, path)
        kinds = _types(schema)
        if kinds and not any(_IS_OF[kind](value) for kind in kinds):
            yield _SchemaFault(path, f"must be {_choice([_WORDS[kind] for kind in kinds])}")
            return
        match value:
            case dict():
                yield from self._object_faults(schema, value, path, depth)
            case list():
                yield from self._list_faults(schema, value, path, depth)
            case str():
                yield from _faults_of_text(schema, value, path)
            case int() | float() if not isinstance(value, bool):
                yield from _faults_of_number(schema, value, path)

    def _step(self, count: int = 1) -> None:
        self._steps += count
        if self._steps > self._most:
            self._most = _MAX_STEPS + _STEPS_A_PART * _count_parts(self._value)
            if self._steps > self._most:
                raise _TooManySteps

    def _part_faults(self, schema: Schema, value: Any, path: str, depth: int) -> Iterator[_SchemaFault]:
        if "$ref" in schema:
            yield from self.faults(target(self._root, str(schema["$ref"])), value, path, depth + 1)
        for part in _list(schema.get("allOf")):
            yield from self.faults(part, value, path, depth + 1)
        for parts in (_list(schema.get("anyOf")), _list(schema.get("oneOf"))):
            faults_of_parts = [list(self.faults(part, value, path, depth + 1)) for part in parts]
            if faults_of_parts and all(faults_of_parts):
                self._step(_STEPS_OF_WORDS)
                yield from _closest(schema, self._root, faults_of_parts, path)

    def _object_faults(
        self, schema: Schema, value: dict[str, Any], path: str, depth: int
    ) -> Iterator[_SchemaFault]:
        properties = _object(schema.get("properties"))
        for name in _list(schema.get("required")):
            if name not in value:
                yield _SchemaFault(_below(path, name), "is required")
        others = schema.get("additionalProperties", True)
        for name, field in value.items():
            if name in properties:
                yield from self.faults(properties[name], field, _below(path, name), depth + 1)
            elif others is False:
                names = ", ".join([*properties][:_MAX_LISTED]) or "no fields"
                yield _SchemaFault(_below(path, name), f"is not a field of it; there are {names}")
            else:
                yield from self.faults(others, field, _below(path, name), depth + 1)

    def _list_faults(self, schema: Schema, value: list[Any], path: str, depth: int) -> Iterator[_SchemaFault]:
        yield from _bounds(schema, len(value), path, ("minItems", "maxItems"), "items")
        first = _list(schema.get("prefixItems"))
        for index, item in enumerate(value):
            part = first[index] if index < len(first) else schema.get("items", True)
            yield from self.faults(part, item, _below(path, str(index)), depth + 1)


def _faults_of_choice(schema: Schema, value: Any, path: str) -> Iterator[_SchemaFault]:
    choice = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(choice, list) and not any(_same(one, value) for one in choice):
        yield _SchemaFault(path, f"must be {_choice([_json(one) for one in choice])}")


def _faults_of_text(schema: Schema, value: str, path: str) -> Iterator[_SchemaFault]:
    yield from _bounds(schema, len(value), path, ("minLength", "maxLength"), "characters")
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and not _matches(pattern, value):
        yield _SchemaFault(path, f"must match {pattern}")


def _faults_of_number(schema: Schema, value: float, path: str) -> Iterator[_SchemaFault]:
    for name, fits, words in _NUMBER_BOUNDS:
        bound = schema.get(name)
        if isinstance(bound, int | float) and not fits(value, bound):
            yield _SchemaFault(path, f"must be {words} {bound:g}")


def _bounds(
    schema: Schema, size: int, path: str, names: tuple[str, str], what: str
) -> Iterator[_SchemaFault]:
    least, most = (schema.get(name) for name in names)
    if isinstance(least, int) and size < least:
        yield _SchemaFault(path, "must not be empty" if least == 1 else f"must have at least {least} {what}")
    if isinstance(most, int) and size > most:
        yield _SchemaFault(path, f"must have at most {most} {what}")


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> Any:
    """A check for a pattern, in time linear in the text: it may come from a caller. None for a dialect."""
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError:
        return None


def _matches(pattern: str, value: str) -> bool:
    check = _pattern(pattern)
    return check is None or check.isinstance_python(value)


def _closest(
    schema: Schema, root: Schema, faults_of_parts: Sequence[list[_SchemaFault]], path: str
) -> Iterator[_SchemaFault]:
    """The faults of the one choice that the value may be meant as; where none is, what may be chosen."""
    within = [those for those in faults_of_parts if all(fault.path != path for fault in those)]
    if len(within) == 1:
        yield from within[0]
    else:
        yield _SchemaFault(path, f"must be {_described(schema, root, 1)}")


_IS_OF: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "null": lambda value: value is None,
}
_NUMBER_BOUNDS: tuple[tuple[str, Callable[[float, float], bool], str], ...] = (
    ("minimum", lambda value, bound: value >= bound, "at least"),
    ("maximum", lambda value, bound: value <= bound, "at most"),
    ("exclusiveMinimum", lambda value, bound: value > bound, "greater than"),
    ("exclusiveMaximum", lambda value, bound: value < bound, "less than"),
)


def json_types(schema: Schema) -> list[str]:
    """The JSON types that a value of the schema may have; none where it does not say."""
    return _types(_resolved(schema, schema))


def _types(schema: Schema) -> list[str]:
    kinds = schema.get("type")
    return [kind for kind in ([kinds] if isinstance(kinds, str) else _list(kinds)) if kind in _WORDS]


def _resolved(schema: Any, root: Schema) -> Schema:
    for _ in range(_MAX_DEPTH):
        if not (isinstance(schema, Mapping) and "$ref" in schema):
            break
        schema = target(root, str(schema["$ref"]))
    return schema if isinstance(schema, Mapping) else {}


def target(root: Any, reference: str) -> Any:
    """The target of a reference within a schema (`#`, `#/$defs/Name`); None where there is none."""
    head, *steps = reference.split("/")
    if head != "#":
        return None
    node = root
    for step in steps[: _MAX_DEPTH * 2]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(name)
        elif isinstance(node, list) and name.isdecimal() and len(name) < 6 and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: true is not 1."""
    return _json(one) == _json(other)


def _count_parts(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count_parts, parts))


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _choice(words: Sequence[str]) -> str:
    listed = [*words[:_MAX_LISTED], *(["..."] if len(words) > _MAX_LISTED else [])]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

"""Structured answers: the schema of a shape, and replies that are read strictly or repaired by the model."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import from_json, to_json

from meshwright.core.errors import InvalidInput
from meshwright.core.schema import target
from meshwright.models.errors import StructureInvalid
from meshwright.models.port import ChatMessage, ModelReply

_MAX_REPAIRS = 2
_MAX_ERRORS = 5
ShapeT = TypeVar("ShapeT", bound=BaseModel)
_STRING = r'"(?:[^"\\]|\\.)*+(?:"|\Z)'
_BRACES = re.compile(rf"{_STRING}|[{{}}]", re.DOTALL)
_MENDABLE = re.compile(rf"({_STRING})|,(?=\s*+[}}\]])|\b(?:True|False|None)\b", re.DOTALL)
_JSON_WORDS = {"True": "true", "False": "false", "None": "null"}
_BEGINS_WITHIN = re.compile(r"""(?:["'\]]\s*:|[\[,(])\Z""")  # the object is a part of something else
_GOES_ON = re.compile(r"\s*[\]:,)]")


# Schemas, from outside too

_MAX_DEPTH = 64
_MAX_NODES = 10_000
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_SCHEMA = frozenset(
    {"additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames"}
    | {"then", "unevaluatedItems", "unevaluatedProperties"}
)
_SCHEMA_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_MAP = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})


class InvalidSchema(InvalidInput):
    """A JSON schema that is invalid, too large, or that no value fits."""

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


# The schema of a shape

_LEFT_OUT = ("default", "discriminator", "title")


class WithoutTitles(GenerateJsonSchema):
    """Leaves out the titles that pydantic derives from names: to a model they are only tokens."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def response_schema(shape: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a shape, as strict as OpenAI wants it.

    No object takes other fields, every field is required and has no default (one that may be left out may be
    null instead, where its type says so), unions are `anyOf`, and nothing stands beside a `$ref`. Whatever
    fits it fits the shape, but for what only the shape's own validators know. Raises InvalidSchema where no
    value fits, or what the shape adds to its schema is none.
    """
    schema = shape.model_json_schema(schema_generator=WithoutTitles)
    definitions = schema.pop("$defs", {})
    if "$ref" in schema:  # of a shape that holds itself: only an object may be at the root
        schema = definitions[_name(schema)]
    strict = _strict(schema, definitions, ())
    parts = {name: _strict(definition, definitions, ()) for name, definition in definitions.items()}
    whole = {**strict, "$defs": parts} if parts else strict
    check_schema(whole, shape.__name__)
    return whole


def _strict(value: Any, definitions: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_strict(item, definitions, within) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _reference(value, definitions, within)
    strict = {
        {"oneOf": "anyOf"}.get(key, key): _strict(part, definitions, within)
        for key, part in value.items()
        if key not in _LEFT_OUT and key != "properties"
    }
    if "properties" in value:
        fields = {name: _strict(part, definitions, within) for name, part in value["properties"].items()}
        strict |= {"properties": fields, "required": list(fields), "additionalProperties": False}
    return strict


def _reference(value: dict[str, Any], definitions: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    """A reference alone; what is said beside it (a description) is kept with a copy of what it stands for."""
    name = _name(value)
    beside = {key: part for key, part in value.items() if key not in ("$ref", *_LEFT_OUT)}
    if not beside or name in within:
        return {"$ref": value["$ref"]}
    return {**_strict(definitions[name], definitions, (*within, name)), **beside}


def _name(reference: Mapping[str, Any]) -> str:
    return reference["$ref"].rpartition("/")[2]


# Reading


def read_answer(shape: type[ShapeT], reply: ModelReply) -> ShapeT:
    """The answer that a reply's content is, checked strictly: "5" is no number.

    Raises StructureInvalid, which says what is wrong and where, and quotes nothing.
    """
    try:
        return shape.model_validate_json(repaired(reply.content), strict=True)
    except ValidationError as error:
        raise StructureInvalid(_what_is_wrong(error, reply), raw=reply.content) from None


def _what_is_wrong(error: ValidationError, reply: ModelReply) -> str:
    if not reply.content.strip():
        return "it is empty"
    errors = error.errors(include_input=False, include_url=False)
    if errors[0]["type"] == "json_invalid" and reply.finish_reason == "length":
        return f"it was cut off after {reply.usage.completion_tokens} tokens: answer in fewer words"
    problems = [f"{'.'.join(map(str, part['loc'])) or 'the answer'}: {part['msg']}" for part in errors]
    more = f"; and {len(problems) - _MAX_ERRORS} more" if len(problems) > _MAX_ERRORS else ""
    return "; ".join(problems[:_MAX_ERRORS]) + more


async def parse_or_repair(
    shape: type[ShapeT],
    reply: ModelReply,
    messages: Sequence[ChatMessage],
    ask: Callable[[Sequence[ChatMessage]], Awaitable[ModelReply]],
) -> ShapeT:
    """The answer of a reply to these messages; an invalid one is sent back with the reason, twice at most.

    Raises StructureInvalid with the last reply as `raw`, and what `ask` raises.
    """
    talk = [*messages]
    for _ in range(_MAX_REPAIRS):
        try:
            return read_answer(shape, reply)
        except StructureInvalid as error:
            talk += _complaint(error, response_schema(shape))
            reply = await ask(talk)
    try:
        return read_answer(shape, reply)
    except StructureInvalid as error:
        problem = f"the model did not answer as {shape.__name__}, even after two corrections: {error.message}"
        remedy = "what it answered is in the task's structure.invalid events"
        raise StructureInvalid(problem, remedy=remedy, raw=error.raw) from None


def _complaint(error: StructureInvalid, schema: Mapping[str, Any]) -> list[ChatMessage]:
    """The request to correct an invalid answer: the answer itself, and what is wrong where."""
    complaint = (
        f"That answer does not fit: {error.message}.\nGive the whole answer again, corrected: one JSON "
        f"object, and nothing else, that fits this JSON schema:\n{to_json(schema).decode()}"
    )
    said = [ChatMessage(role="assistant", content=error.raw)] if error.raw.strip() else []
    return [*said, ChatMessage(role="user", content=complaint)]


# JSON that is nearly right


def repaired(text: str) -> str:
    """JSON text that is nearly right, made right where there is one way alone to do so; else as it was.

    Words or a fence around one object are taken off, a comma after the last element too, and Python's True,
    False and None become JSON's. Quotes, brackets and values are never guessed; valid JSON stays as it is.
    """
    if _is_json(text):
        return text
    span = _only_object(text)
    if span is None:
        return text
    mended = _MENDABLE.sub(_mended, text[slice(*span)])
    return mended if _is_json(mended) else text


def _is_json(text: str) -> bool:
    try:
        from_json(text, allow_inf_nan=False, cache_strings="none")
    except ValueError:
        return False
    return True


def _only_object(text: str) -> tuple[int, int] | None:
    """The span of the one object of a text; None where there is none, or more, or half of one."""
    begin = text.find("{")
    before = text[: max(begin, 0)].rstrip()
    if begin < 0 or "}" in before or _BEGINS_WITHIN.search(before):
        return None
    depth = 0
    for mark in _BRACES.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(mark[0], 0)
        if depth == 0:
            rest = text[mark.end() :]
            alone = not ("{" in rest or "}" in rest or _GOES_ON.match(rest))
            return (begin, mark.end()) if alone else None
    return None


def _mended(mark: re.Match[str]) -> str:
    if mark[1] is not None:
        return mark[1]
    if mark[0] != ",":
        return _JSON_WORDS[mark[0]]
    before = mark.start() - 1
    while mark.string[before].isspace():
        before -= 1
    return "," if mark.string[before] in "{[,:" else ""

"""Structured answers: the schema of a shape, and replies that are read strictly or repaired by the model."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, RootModel, ValidationError, model_validator
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError, from_json, to_json

from meshwright.core.schema import fault_text, faults
from meshwright.core.schema_checks import check_schema
from meshwright.models.errors import ShapeMismatch, StructureInvalid
from meshwright.models.port import ChatMessage, ModelReply

_MAX_REPAIRS = 2  # each is a call that costs
_MAX_ERRORS = 5
ShapeT = TypeVar("ShapeT", bound=BaseModel)
_STRING = r'"(?:[^"\\]|\\.)*+(?:"|\Z)'
_BRACES = re.compile(rf"{_STRING}|[{{}}]", re.DOTALL)
_MENDABLE = re.compile(rf"({_STRING})|,(?=\s*+[}}\]])|\b(?:True|False|None)\b", re.DOTALL)
_JSON_WORDS = {"True": "true", "False": "false", "None": "null"}
_BEGINS_WITHIN = re.compile(r"""(?:["'\]]\s*:|[\[,(])\Z""")  # the object is a part of something else
_GOES_ON = re.compile(r"\s*[\]:,)]")


# The schema of a shape

_LEFT_OUT = ("default", "discriminator", "title")
_VALUES = ("const", "enum", "examples")


class WithoutTitles(GenerateJsonSchema):
    """Leaves out the titles that pydantic derives from names: to a model they are only tokens."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def response_schema(shape: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a shape, as strict as OpenAI wants it.

    No object takes other fields, every field is required and has no default (an optional one may be
    null instead, where its type says so), unions are `anyOf`, and nothing stands beside a `$ref`. Whatever
    fits it fits the shape, but for what only the shape's own validators know. Raises InvalidSchema where no
    value fits, or what the shape adds to its schema is none.
    """
    if issubclass(shape, _RequestedShape):
        schema = _with_items(shape.request_schema)
        if not _has_plain_references(schema, {f"#/$defs/{name}" for name in schema.get("$defs", ())}):
            return schema
    else:
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
        {"oneOf": "anyOf"}.get(key, key): part if key in _VALUES else _strict(part, definitions, within)
        for key, part in value.items()
        if key not in _LEFT_OUT and key != "properties"
    }
    if "properties" in value:
        fields = {name: _strict(part, definitions, within) for name, part in value["properties"].items()}
        strict |= {"properties": fields, "required": list(fields), "additionalProperties": False}
    return strict


def _with_items(value: Any) -> Any:
    """A caller's schema whose arrays all say what is in them, without which strict providers refuse it."""
    if isinstance(value, list):
        return [_with_items(item) for item in value]
    if not isinstance(value, dict):
        return value
    completed = {key: part if key in _VALUES else _with_items(part) for key, part in value.items()}
    kinds, items = value.get("type"), value.get("items")
    is_array = kinds == "array" or (isinstance(kinds, list) and "array" in kinds)
    if is_array and "prefixItems" not in value and not isinstance(items, (dict, bool)):
        completed["items"] = _with_items(items[0]) if isinstance(items, list) and items else {}
    return completed


def _reference(value: dict[str, Any], definitions: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    """A reference alone; what is said beside it (a description) is kept with a copy of what it stands for."""
    name = _name(value)
    beside = {key: part for key, part in value.items() if key not in ("$ref", *_LEFT_OUT)}
    if not beside or name in within:
        return {"$ref": value["$ref"]}
    return {**_strict(definitions[name], definitions, (*within, name)), **beside}


def _has_plain_references(value: Any, references: Set[str]) -> bool:
    """Whether each reference is to one of the `$defs`, and stands alone: then nothing has to be copied."""
    if isinstance(value, list):
        return all(_has_plain_references(item, references) for item in value)
    if not isinstance(value, dict):
        return True
    if "$ref" in value:
        return str(value["$ref"]) in references and value.keys() <= {"$ref", *_LEFT_OUT}
    return all(_has_plain_references(part, references) for part in value.values())


def _name(reference: Mapping[str, Any]) -> str:
    return reference["$ref"].rpartition("/")[2]


# The shape that a caller wants


class _RequestedShape(RootModel[dict[str, Any]]):
    """Base of the shapes that callers send as JSON schemas."""

    request_schema: ClassVar[dict[str, Any]] = {}

    @model_validator(mode="after")
    def _check(self) -> _RequestedShape:
        if problems := faults(self.request_schema, self.root):
            raise PydanticCustomError("shape", "{faults}", {"faults": fault_text(problems)})
        return self


def answer_shape(schema: dict[str, Any]) -> type[BaseModel]:
    """The shape of answers that fit a JSON schema of an object."""
    return type("wanted", (_RequestedShape,), {"request_schema": schema, "__module__": __name__})


def check_answer(schema: dict[str, Any], result: dict[str, Any] | None) -> None:
    """Raise ShapeMismatch for a result that does not fit the schema that the task's caller wants."""
    if problems := faults(schema, result, "result"):
        raise ShapeMismatch(
            f"The answer has another shape than the task wants: {fault_text(problems)}",
            remedy="Ask for the shape in which the agent answers, or none",
        )


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
        kind = ShapeMismatch if issubclass(shape, _RequestedShape) else StructureInvalid
        raise kind(problem, remedy=remedy, raw=error.raw) from None


def _complaint(error: StructureInvalid, schema: Mapping[str, Any]) -> list[ChatMessage]:
    """The request to correct an invalid answer: the answer itself, and what is wrong where."""
    complaint = (
        f"That answer does not fit: {error.message}.\nGive the whole answer again, corrected: one JSON "
        f"object, and nothing else, that fits this JSON schema:\n{to_json(schema).decode()}"
    )
    answer = [ChatMessage(role="assistant", content=error.raw)] if error.raw.strip() else []
    return [*answer, ChatMessage(role="user", content=complaint)]


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

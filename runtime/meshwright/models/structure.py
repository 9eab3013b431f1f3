"""Structured answers: asked for in a shape, read strictly, and told what was wrong where they do not fit.

All of it is above the port: a model sees plain requests. The shape goes along in one of three ways; a way
that a model refuses is followed by the next, and not tried again with it. Tools that it refuses are put in
words.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_json

from meshwright.models.port import (
    ChatMessage,
    Model,
    ModelRefused,
    ModelReply,
    ModelRequest,
    OnDelta,
    StructureInvalid,
    ToolSpec,
    Unsupported,
)
from meshwright.models.repair import repaired
from meshwright.models.schema import check_schema
from meshwright.models.tool_texts import ToolTexts, with_system

MAX_REPAIRS = 2
MAX_ERRORS_TOLD = 5
ANSWER_TOOL = "final_answer"
ShapeT = TypeVar("ShapeT", bound=BaseModel)
Way = Literal["native", "tool", "instruction"]
"""How a model is asked for a shape: by `response_format`, by a tool that it must call, or in words."""
WAYS: tuple[Way, ...] = get_args(Way)
REJECTED = frozenset({400, 422})
"""Statuses of a request that is refused as such, whatever it is about it."""


# The schema

LEFT_OUT = ("default", "discriminator", "title")


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
    parts = {name: _strict(each, definitions, ()) for name, each in definitions.items()}
    whole = {**strict, "$defs": parts} if parts else strict
    check_schema(whole, shape.__name__)
    return whole


def _strict(value: Any, definitions: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_strict(each, definitions, within) for each in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _reference(value, definitions, within)
    strict = {
        {"oneOf": "anyOf"}.get(key, key): _strict(each, definitions, within)
        for key, each in value.items()
        if key not in LEFT_OUT and key != "properties"
    }
    if "properties" in value:
        fields = {name: _strict(each, definitions, within) for name, each in value["properties"].items()}
        strict |= {"properties": fields, "required": list(fields), "additionalProperties": False}
    return strict


def _reference(value: dict[str, Any], definitions: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    """A reference alone; what is said beside it (a description) is kept with a copy of what it stands for."""
    name = _name(value)
    beside = {key: each for key, each in value.items() if key not in ("$ref", *LEFT_OUT)}
    if not beside or name in within:
        return {"$ref": value["$ref"]}
    return {**_strict(definitions[name], definitions, (*within, name)), **beside}


def _name(reference: Mapping[str, Any]) -> str:
    return reference["$ref"].rpartition("/")[2]


# Asking


class Ways:
    """Asks models for answers, and remembers for each (by group and tags) the way that it takes shapes in.

    A model that takes no tools gets them in words.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[str, ...]], Way] = {}
        self._tools = ToolTexts()

    async def complete(
        self,
        model: Model,
        request: ModelRequest,
        way: Way = "native",
        on_delta: OnDelta | None = None,
    ) -> ModelReply:
        """Ask for an answer; in the shape of `response_schema`, first in this way, it is the reply's content.

        A request that is refused, which costs nothing, is made in the next way, named in its context. Only
        text without a shape is streamed. Raises ModelError.
        """
        if request.response_schema is None:
            return await self._tools.complete(model, request, on_delta)
        key = request.model, request.tags
        first, *others = _ways_from(self._known.get(key, way), request)
        try:
            return plain(await self._tools.complete(model, written(request, first)), first)
        except ModelRefused as error:
            refusal = error
        for other in others:
            if not _may_be_of_the_way(refusal):
                break
            if other == "tool" and isinstance(refusal, Unsupported) and refusal.what == "tools":
                continue
            context = request.context.model_copy(update={"mode": other})
            again = request.model_copy(update={"context": context})
            try:
                reply = await self._tools.complete(model, written(again, other))
            except ModelRefused as error:
                refusal = error
            else:
                self._known[key] = other
                return plain(reply, other)
        raise refusal


def _may_be_of_the_way(refusal: ModelRefused) -> bool:
    """Whether another way may be taken; not where the context is too long, or the model is not found."""
    if isinstance(refusal, Unsupported):
        return True
    return type(refusal) is ModelRefused and refusal.answered in REJECTED


def _ways_from(first: Way, request: ModelRequest) -> tuple[Way, ...]:
    """The ways from the first on; not by a tool where the agent has one of that name itself."""
    taken = any(tool.name == ANSWER_TOOL for tool in request.tools)
    ways = WAYS[WAYS.index(first) :]
    return tuple(way for way in ways if not (taken and way == "tool"))


def written(request: ModelRequest, way: Way) -> ModelRequest:
    """A request that asks for its `response_schema` in one of the ways."""
    schema = request.response_schema
    if way == "native" or schema is None:
        return request
    if way == "tool":
        answer = ToolSpec(name=ANSWER_TOOL, description="Give the answer.", parameters=schema)
        changes = {"tools": (*request.tools, answer), "tool_choice": "required", "response_schema": None}
        return request.model_copy(update=changes)
    unless = "Unless you call a tool, answer" if request.tools else "Answer"
    words = f"{unless} with one JSON object, and nothing else, that fits this JSON schema:\n{_text(schema)}"
    messages = with_system(request.messages, words)
    return request.model_copy(update={"messages": messages, "response_schema": None})


def plain(reply: ModelReply, way: Way) -> ModelReply:
    """A reply whose answer is its content, in whichever way it was given.

    An answer beside calls of other tools is dropped: the model has not seen what comes of them.
    """
    answers = [call for call in reply.tool_calls if call.name == ANSWER_TOOL] if way == "tool" else []
    if not answers:
        return reply
    others = tuple(call for call in reply.tool_calls if call not in answers)
    content = reply.content if others else answers[0].arguments
    return reply.model_copy(update={"content": content, "tool_calls": others})


def _text(schema: Mapping[str, Any]) -> str:
    return to_json(schema).decode()


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
    told = [f"{'.'.join(map(str, each['loc'])) or 'the answer'}: {each['msg']}" for each in errors]
    more = f"; and {len(told) - MAX_ERRORS_TOLD} more" if len(told) > MAX_ERRORS_TOLD else ""
    return "; ".join(told[:MAX_ERRORS_TOLD]) + more


async def settled(
    shape: type[ShapeT],
    reply: ModelReply,
    messages: Sequence[ChatMessage],
    ask: Callable[[Sequence[ChatMessage]], Awaitable[ModelReply]],
) -> ShapeT:
    """The answer of a reply to these messages; one that does not fit is told why, and asked for anew, twice.

    Raises StructureInvalid with the last reply as `raw`, and what `ask` raises.
    """
    talk = [*messages]
    for _ in range(MAX_REPAIRS):
        try:
            return read_answer(shape, reply)
        except StructureInvalid as error:
            talk += complaint(error, response_schema(shape))
            reply = await ask(talk)
    try:
        return read_answer(shape, reply)
    except StructureInvalid as error:
        raise StructureInvalid(
            f"the model did not answer as {shape.__name__}, also when told twice why: {error.message}",
            remedy="what it answered is in the task's structure.invalid events",
            raw=error.raw,
        ) from None


def complaint(error: StructureInvalid, schema: Mapping[str, Any]) -> list[ChatMessage]:
    """What a model is told of an answer that does not fit: its own words, and what is wrong where."""
    told = (
        f"That answer does not fit: {error.message}.\nGive the whole answer again, corrected: one JSON "
        f"object, and nothing else, that fits this JSON schema:\n{_text(schema)}"
    )
    said = [ChatMessage(role="assistant", content=error.raw)] if error.raw.strip() else []
    return [*said, ChatMessage(role="user", content=told)]

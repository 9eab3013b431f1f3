"""Calls whose server asks for input before it answers: each round is kept, and people are waited for durably.

A server of the protocol 2026-07-28 may answer a call by `input_required`: questions, and a state to send back
with the answers. The call is then repeated with both, also by a process that was started since. One without
questions asks to be called again later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.errors import PydanticUserError

from meshwright.core.display import short
from meshwright.core.errors import ToolFailed, WaitExpired
from meshwright.tools.tool import ToolContext

_MAX_ROUNDS = 100
_MAX_FIELDS = 20
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 60.0  # before a server without questions is called again
_DONE = {"done": True}
_TYPES: Mapping[str, Any] = {"string": str, "number": float, "integer": int, "boolean": bool}


class _ServerTool(Protocol):
    server: str
    name: str
    is_repeatable: bool

    async def send(
        self, values: Mapping[str, Any], answers: Mapping[str, Any] | None = None, state: str | None = None
    ) -> Any: ...


class LinkVisit(BaseModel):
    """A person's word that an address was opened, and what it asks for is done."""

    model_config = ConfigDict(title="Opened")

    is_done: bool = Field(alias="done")


async def called_in_rounds(tool: _ServerTool, values: Mapping[str, Any], context: ToolContext) -> Any:
    """The result of a call, after as many rounds as its server asks for. Raises ToolFailed."""
    answers: dict[str, Any] | None = None
    state: str | None = None
    pause = _MIN_PAUSE_SECONDS
    for _ in range(_MAX_ROUNDS):
        result, request = await _round(tool, values, answers, state, context)
        if request is None:
            return result
        state, questions = request.get("requestState"), request.get("inputRequests") or {}
        if questions:
            answers = {key: await _answer(tool, question, context) for key, question in questions.items()}
            pause = _MIN_PAUSE_SECONDS
        else:
            await context.sleep(pause)
            answers, pause = None, min(2 * pause, _MAX_PAUSE_SECONDS)
    raise ToolFailed(f"{tool.name} still asks for more after {_MAX_ROUNDS} rounds")


async def _round(
    tool: _ServerTool,
    values: Mapping[str, Any],
    answers: Mapping[str, Any] | None,
    state: str | None,
    context: ToolContext,
) -> tuple[Any, dict[str, Any] | None]:
    """One round: the result, or what the server asks for, which the journal keeps.

    The result itself is kept by the step of the whole call. If the process died just between the two, only a
    call that may be repeated is repeated.
    """
    results: list[Any] = []

    async def send() -> dict[str, Any]:
        result = await tool.send(values, answers, state)
        if result.result_type == "input_required":
            return result.model_dump(mode="json", by_alias=True, exclude_none=True)
        results.append(result)
        return _DONE

    document = await context.step(tool.name, send, repeatable=tool.is_repeatable)
    if document != _DONE:
        if isinstance(document, dict) and "resultType" in document:
            return None, document
        raise ToolFailed(f"{tool.name} was interrupted and is not run again", remedy=str(document or ""))
    if not results and not tool.is_repeatable:
        raise ToolFailed(f"{tool.name} was run, and its result is lost", remedy="Look whether it took effect")
    return (results[0] if results else await tool.send(values, answers, state)), None


async def _answer(tool: _ServerTool, request: Mapping[str, Any], context: ToolContext) -> Any:
    """The answer of a person to one question. Raises ToolFailed for requests that are none."""
    from mcp import types

    if request.get("method") != "elicitation/create":
        subject = "a model" if request.get("method") == "sampling/createMessage" else "your folders"
        raise ToolFailed(f"{tool.name} was not run: its server asks for {subject}, which it does not get")
    params = request["params"]
    question = f"The MCP server {tool.server} asks, for a call of {tool.name}: {short(params['message'])}"
    about = {"server": tool.server, "tool": tool.name}
    try:
        if params.get("mode") == "url":
            url = _safe_url(tool, params["url"])
            question = f"{question} Open {url} and say whether you have done what it asks."
            visit = await context.ask_person(question, shape=LinkVisit, about={**about, "url": url})
            return types.ElicitResult(action="accept" if visit.is_done else "decline")
        shape = shape_of(tool.name, params["requestedSchema"])
        answer = await context.ask_person(question, shape=shape, about=about)
        content = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
        return types.ElicitResult(action="accept", content=content)
    except WaitExpired:
        return types.ElicitResult(action="cancel")


def _safe_url(tool: _ServerTool, url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.username or not parts.hostname:
        raise ToolFailed(f"{tool.name} was not run: its server asks a person to open {short(url)!r}")
    return url


def shape_of(tool: str, schema: Mapping[str, Any]) -> type[BaseModel]:
    """The shape of an answer, of the few kinds of fields that servers may ask for. Raises ToolFailed."""
    properties, required = schema.get("properties") or {}, set(schema.get("required") or ())
    fields: dict[str, Any] = {}
    for number, (name, field) in enumerate(properties.items()):
        kind = _type_of(field)
        is_required = name in required
        described = Field(
            ... if is_required else None, alias=name, description=short(field.get("description") or name)
        )
        fields[f"field_{number}"] = (kind if is_required else kind | None, described)
    try:
        if not fields or len(fields) > _MAX_FIELDS:
            raise ValueError(f"{len(fields)} fields")
        return create_model("Answer", __config__=ConfigDict(extra="forbid"), **fields)
    except (ValueError, TypeError, PydanticUserError) as error:
        problem = f"{tool} was not run: its server asks in a form that is not known"
        raise ToolFailed(f"{problem}: {error}") from error


def _type_of(schema: Mapping[str, Any]) -> Any:
    one_of: Any = Literal
    choices = schema.get("enum") or [one["const"] for one in schema.get("oneOf") or schema.get("anyOf") or ()]
    if choices:
        return one_of[tuple(choices)]
    if schema.get("type") == "array":
        items: Any = _type_of(schema.get("items") or {})
        return list[items]
    return _TYPES.get(str(schema.get("type")), str)

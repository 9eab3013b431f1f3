"""Calls of models that an agent's code makes itself: its messages alone, without prompt and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from msgspec.structs import replace
from pydantic import BaseModel

from meshwright.agents.run.preparation import CallSettings
from meshwright.agents.run.state import RunState
from meshwright.core.errors import AgentError
from meshwright.core.limits import reserved_param
from meshwright.core.schema_checks import check_schema
from meshwright.engine.work.protocol import hash_request
from meshwright.models.port import ChatMessage, ModelRequest, ToolSpec
from meshwright.models.structure import response_schema
from meshwright.models.wire.chat import CHAT

ToolChoice = Literal["auto", "required", "none"]
"""Whether the model may, must or must not call one of the tools."""
Shape = type[BaseModel] | Mapping[str, Any]
"""The shape of an answer: a pydantic model, or a JSON schema."""

_OWN_MODEL = frozenset({"", "default"})
_BODY = {"model": "default", "messages": [{"role": "user", "content": ""}]}
"""The least that is a request of OpenAI's API."""


def make_request(
    messages: Sequence[ChatMessage | Mapping[str, Any]],
    tools: Sequence[ToolSpec | Mapping[str, Any]],
    shape: Shape | None,
    *,
    model: str,
    tags: Sequence[str],
    tool_choice: ToolChoice,
    params: Mapping[str, Any] | None,
    **settings: Any,
) -> ModelRequest:
    """Make the request of a call; `RunClients.complete` describes the arguments.

    Raises InvalidInput with the field that is wrong, AgentError where no model can be asked so.
    """
    messages = () if isinstance(messages, (str, dict)) else tuple(messages or ())
    if not messages:
        remedy = 'Write run.complete([{"role": "user", "content": "What is a turn?"}])'
        raise AgentError("run.complete is given no list of messages", remedy=remedy)
    if tool_choice not in get_args(ToolChoice):
        remedy = f"Write one of {', '.join(get_args(ToolChoice))}"
        raise AgentError(f"run.complete is given the tool_choice {tool_choice!r}", remedy=remedy)
    if params is not None and not isinstance(params, Mapping):
        raise AgentError(
            f"run.complete is given the params {params!r}", remedy='Write a dict, such as {"top_p": 0.5}'
        )
    if name := reserved_param(params or ()):
        raise AgentError(f"run.complete is given {name!r} among its params", remedy="Leave it out")
    checked = CHAT.read({**_BODY, "model": model or "default", "tags": tags, **settings}, {}).request
    return ModelRequest(
        model=model or "",
        messages=_read(messages, "messages"),
        tags=checked.tags,
        tools=_read(tools, "tools"),
        tool_choice=tool_choice,
        response_schema=_shape_schema(shape),
        user="",
        temperature=checked.temperature,
        max_tokens=checked.max_tokens,
        params=dict(params or {}),
    )


def _read(items: Sequence[Any], name: Literal["messages", "tools"]) -> tuple[Any, ...]:
    """Messages, or tools, as the port has them, in their order."""
    foreign = [dict(item) if isinstance(item, Mapping) else item for item in items if _is_foreign(item)]
    request = CHAT.read({**_BODY, name: foreign}, {}).request if foreign else None
    converted = iter(getattr(request, name) if request is not None else ())
    return tuple(next(converted) if _is_foreign(item) else item for item in items)


def _is_foreign(item: Any) -> bool:
    return not isinstance(item, ChatMessage | ToolSpec)


def _shape_schema(shape: Shape | None) -> dict[str, Any] | None:
    if shape is None:
        return None
    if isinstance(shape, Mapping):
        check_schema(shape, "shape")
        return dict(shape)
    if not (isinstance(shape, type) and issubclass(shape, BaseModel)):
        remedy = "Name a class of it, or give a JSON schema"
        raise AgentError(f"the shape {shape!r} is no pydantic model", remedy=remedy)
    return response_schema(shape)


def request_of_run(state: RunState, settings: CallSettings, request: ModelRequest) -> ModelRequest:
    """A request as a run makes it: model, tags and parameters are the agent's where it leaves them open."""
    of_run = {"user": state.agent.agent_id, "timeout_seconds": state.time.timeout.seconds}
    if request.inputs:  # the agent's settings are for models that write
        return replace(request, **of_run)
    return replace(
        request,
        model=settings.model if request.model in _OWN_MODEL else request.model,
        tags=request.tags or settings.tags,
        **of_run,
        params={**settings.params, **request.params},
        output_mode=settings.prompt.structure,
        cache=request.cache and settings.prompt.cache,
    )


class CallQuestion(NamedTuple):
    """The part of a request that the step of its call is known by, and the hash of it."""

    parts: dict[str, Any]
    hash: str

    @classmethod
    def from_request(cls, request: ModelRequest) -> CallQuestion:
        """The question of a raw call."""
        parts = _question_parts(request)
        return cls(parts, hash_request(parts))


def _question_parts(request: ModelRequest) -> dict[str, Any]:
    """The messages that the code asks with, of which model, with which tools.

    A recorded reply stands, whatever the settings of the call and the descriptions of tools are now. Ids of
    calls of tools are counted, since some frameworks make new ones each time.
    """
    numbers: dict[str, int] = {}
    question: dict[str, Any] = {
        "complete": [_request_message(message, numbers) for message in request.messages],
        "model": request.model,
        "tools": [tool.name for tool in request.tools],
        "tool_choice": request.tool_choice,
    }
    if request.response_schema is not None:
        form = request.response_format or {}
        question["shape"] = form.get("json_schema", {}).get("name") or request.response_schema.get("title")
    if request.inputs:
        question["embed"] = request.inputs
    return question


def _request_message(message: ChatMessage, numbers: dict[str, int]) -> dict[str, Any]:
    request: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.parts:
        request["parts"] = message.parts
    if message.tool_calls:
        calls = message.tool_calls
        request["calls"] = [[_number(call.id, numbers), call.name, call.arguments] for call in calls]
    if message.tool_call_id is not None:
        request["answers"] = _number(message.tool_call_id, numbers)
    return request


def _number(call_id: str, numbers: dict[str, int]) -> int:
    return numbers.setdefault(call_id, len(numbers))

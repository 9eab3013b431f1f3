"""Tools for models that take none: described in words, called by a JSON object, answered by the user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from meshwright.models.port import (
    ChatMessage,
    Model,
    ModelReply,
    ModelRequest,
    OnDelta,
    ToolCall,
    ToolSpec,
    Unsupported,
)
from meshwright.models.repair import repaired

IN_WORDS = "tools in words"
"""What is said of a call's way, in its context, where tools that were refused are put in words."""
HOW_TO_CALL = """\
You can call tools. To call one or several, answer with one JSON object of this form, and nothing else:
{"tool_calls": [{"name": "<name of the tool>", "arguments": {<its arguments>}}]}
What comes of it is told in the next message. Without need of a tool, answer in words.
These are the tools, each with the JSON schema of its arguments:
"""


class WrittenCall(BaseModel):
    """A call of a tool as a model writes it in words."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class WrittenCalls(BaseModel):
    """What a model answers with to call tools in words: this object and no other field."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tool_calls: tuple[WrittenCall, ...] = Field(min_length=1)


class ToolTexts:
    """Asks models with tools, and remembers which (by group and tags) take none: those get them in words."""

    def __init__(self) -> None:
        self._without_tools: set[tuple[str, tuple[str, ...]]] = set()

    async def complete(
        self, model: Model, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> ModelReply:
        """Ask the model; its reply has calls of tools, however it wrote them.

        Tools that it refuses, which costs nothing, are put in words in a call of its own, named in its
        context; nothing of that is streamed, since it may be a call. Not put in words are tools that must be
        called or that come with a shape: such a refusal is raised. Raises ModelError.
        """
        key = request.model, request.tags
        if not uses_tools(request):
            return await model.complete(request, on_delta)
        if key in self._without_tools and can_be_in_words(request):
            return await ask_in_words(model, request, on_delta)
        try:
            return await model.complete(request, on_delta)
        except Unsupported as refusal:
            if refusal.what != "tools" or not can_be_in_words(request):
                raise
        mode = ", ".join(filter(None, (request.context.mode, IN_WORDS)))
        context = request.context.model_copy(update={"mode": mode})
        again = request.model_copy(update={"context": context})
        reply = await ask_in_words(model, again, on_delta)
        self._without_tools.add(key)
        return reply


def uses_tools(request: ModelRequest) -> bool:
    """Whether a request has tools, or tells of calls."""
    return bool(request.tools) or any(each.role == "tool" or each.tool_calls for each in request.messages)


def can_be_in_words(request: ModelRequest) -> bool:
    """Whether an answer in words can be a call as well as an answer."""
    return request.tool_choice == "auto" and not (request.tools and request.response_schema)


async def ask_in_words(model: Model, request: ModelRequest, on_delta: OnDelta | None) -> ModelReply:
    """Ask with the tools in words, and read the calls in the reply."""
    reply = await model.complete(in_words(request), None if request.tools else on_delta)
    return with_calls(reply, str(request.context.step or 0))


def in_words(request: ModelRequest) -> ModelRequest:
    """A request whose tools, calls and results are plain text."""
    messages = tuple(spoken(request.messages))
    if request.tools:
        messages = with_system(messages, HOW_TO_CALL + "\n".join(map(described, request.tools)))
    return request.model_copy(update={"messages": messages, "tools": ()})


def described(tool: ToolSpec) -> str:
    """A tool in words."""
    return to_json(tool).decode()


def spoken(messages: Sequence[ChatMessage]) -> Iterator[ChatMessage]:
    """Messages without calls: the assistant says them as it is to write them, the user tells the results."""
    names: dict[str | None, str] = {}
    for role, group in groupby(messages, key=lambda message: message.role):
        if role == "tool":
            told = [(names.get(each.tool_call_id, "a tool"), each.content) for each in group]
            results = "\n\n".join(f"Result of {name}:\n{content}" for name, content in told)
            yield ChatMessage(role="user", content=results)
            continue
        for message in group:
            names |= {call.id: call.name for call in message.tool_calls}
            yield said(message) if message.tool_calls else message


def said(message: ChatMessage) -> ChatMessage:
    """An assistant's message with its calls written out."""
    calls = [{"name": call.name, "arguments": arguments_of(call)} for call in message.tool_calls]
    text = to_json({"tool_calls": calls}).decode()
    content = f"{message.content}\n{text}" if message.content else text
    return ChatMessage(role=message.role, content=content)


def arguments_of(call: ToolCall) -> Any:
    """The arguments of a call; their text where they are no JSON."""
    try:
        return from_json(repaired(call.arguments))
    except ValueError:
        return call.arguments


def with_calls(reply: ModelReply, step: str) -> ModelReply:
    """A reply with the calls that its text is; as it was where it is anything else."""
    try:
        written = WrittenCalls.model_validate_json(repaired(reply.content))
    except ValidationError:
        return reply
    calls = tuple(
        ToolCall(id=f"call_{step}_{number}", name=call.name, arguments=to_json(call.arguments).decode())
        for number, call in enumerate(written.tool_calls)
    )
    return reply.model_copy(update={"content": "", "tool_calls": calls, "finish_reason": "tool_calls"})


def with_system(messages: Sequence[ChatMessage], words: str) -> tuple[ChatMessage, ...]:
    """Messages with more words at the end of the system message."""
    if messages and messages[0].role == "system":
        first = messages[0].model_copy(update={"content": f"{messages[0].content}\n\n{words}"})
        return (first, *messages[1:])
    return (ChatMessage(role="system", content=words), *messages)

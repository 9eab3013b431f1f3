"""Chat completions as OpenAI's clients ask for them, and want them answered: whole, or in pieces."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import to_json

from meshwright.core.capability import LLM_SERVICE
from meshwright.core.errors import InvalidInput, MeshError
from meshwright.core.ids import Identifier, new_id
from meshwright.core.limits import reserved_param
from meshwright.core.messages import Usage
from meshwright.core.schema_checks import check_schema
from meshwright.models.openai import WANTED_BACK
from meshwright.models.port import UNSTATED, ChatMessage, ModelReply, ModelRequest, ToolCall, ToolSpec
from meshwright.models.thinking import Thinking, signed_blocks, text_of_blocks
from meshwright.models.wire.errors import (
    OPENAI_REQUEST_ID,
    UnsupportedParameter,
    invalid_body,
    openai_answer,
    openai_error,
)
from meshwright.models.wire.stream import StreamedCall

TAGS_HEADER = "x-litellm-tags"
_MAX_TAGS, _MAX_TAG_CHARS = 16, 64
_Tag = Annotated[str, StringConstraints(min_length=1, max_length=_MAX_TAG_CHARS)]
_Tags = Annotated[list[_Tag], Field(max_length=_MAX_TAGS)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
_CallId = Annotated[str, StringConstraints(min_length=1, max_length=65_536)]  # providers put signatures in it
_DEFAULTS: dict[str, Any] = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "functions": [],
    "function_call": "auto",
}
"""Parameters for whose effect a reply has no place: only these values will do. Others go to the provider."""
_PARTS = ("text", "image_url", "file", "input_audio", "refusal")
_FUNCTIONS = "Offer functions; /v1/responses takes custom tools as well"
_Mode = Literal["none", "auto", "required"]


class ChatPart(BaseModel):
    """A piece of a message: text, a picture, a file or sound."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str = ""


class CalledFunction(BaseModel):
    """The function of a tool call: `arguments` is JSON text."""

    name: _Name
    arguments: str = "{}"


class PastCall(BaseModel):
    """A call of a tool that a model made earlier; other fields are its provider's, and go back to it."""

    model_config = ConfigDict(extra="allow")

    id: _CallId
    type: Literal["function"] = "function"
    function: CalledFunction


class RequestMessage(BaseModel):
    """One message of the conversation.

    `thinking_blocks` is LiteLLM's: the provider's blocks of thinking, as they came with an answer.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ChatPart] | None = None
    tool_calls: list[PastCall] | None = None
    tool_call_id: _CallId | None = None
    thinking_blocks: list[dict[str, Any]] | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None


_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


class OfferedFunction(BaseModel):
    """A function as the model sees it."""

    name: _Name
    description: str = ""
    parameters: dict[str, Any] = _NO_PARAMETERS
    strict: bool | None = None


class ChatTool(BaseModel):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    function: OfferedFunction


class JsonSchema(BaseModel):
    """The shape that an answer is to have."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """Text, any JSON object, or one of a shape."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class StreamOptions(BaseModel):
    """Additions to a streamed answer."""

    include_usage: bool = False


class CallMetadata(BaseModel):
    """The metadata of a call that the mesh reads; `thread_id` is the conversation of an agent."""

    tags: _Tags | None = None
    cache: dict[str, Any] | None = None
    thread_id: Identifier | None = None


class ChatRequest(BaseModel):
    """A chat completion to be made, as OpenAI's API has it.

    Two fields are LiteLLM's: `tags` pick the deployment, and `cache` with `no-cache` wants a new answer. Both
    may stand in `metadata`, and tags in the header `x-litellm-tags`.
    """

    model_config = ConfigDict(extra="allow")

    model: _Name
    messages: list[RequestMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[ChatTool] | None = None
    tool_choice: _Mode | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    user: Identifier | None = None
    tenant_id: Identifier | None = None
    tags: _Tags | None = None
    metadata: CallMetadata | None = None
    cache: dict[str, Any] | None = None


def model_request(request: ChatRequest, header: str = "") -> ModelRequest:
    """Make the request that the mesh's model takes; `header` has more tags, with commas between.

    Raises InvalidInput for what it cannot do.
    """
    schema = _answer_schema(request)
    form = request.response_format if schema is not None else None
    mode, tools = _tool_choice(request)
    cache = request.cache or (request.metadata or CallMetadata()).cache or {}
    return ModelRequest(
        model=request.model,
        messages=read_messages(request.messages),
        tags=_request_tags(request, header),
        user=LLM_SERVICE,
        tools=tools,
        tool_choice=mode,
        response_schema=schema,
        response_format=form.model_dump(by_alias=True, exclude_none=True) if form else None,
        temperature=request.temperature,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        params=provider_params(request.model_extra or {}),
        cache=not any(cache.get(word) for word in ("no-cache", "no-store")),
    )


def provider_params(others: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that go to the provider as they are.

    Raises UnsupportedParameter for one that would have no effect, and for one that is the operator's.
    """
    params = {name: value for name, value in others.items() if value is not None}
    for name, usual in _DEFAULTS.items():
        if name in params and params.pop(name) != usual:
            raise UnsupportedParameter(
                f"{name}: only {json.dumps(usual)} is possible here", remedy="Leave it out", field=name
            )
    if params.get("modalities") == ["text"]:
        del params["modalities"]  # models answer with text anyway, and some refuse the field
    if reserved := reserved_param(params):
        raise UnsupportedParameter(
            f"{reserved} is not for clients to say", remedy="Leave it out", field=reserved
        )
    return params


def header_tags(header: str) -> tuple[str, ...]:
    """Returns the tags of a header, with commas between. Raises InvalidInput for too many or long ones."""
    tags = list(filter(None, map(str.strip, header.split(","))))
    if len(tags) > _MAX_TAGS or max(map(len, tags), default=0) > _MAX_TAG_CHARS:
        problem = f"{TAGS_HEADER} may have {_MAX_TAGS} tags of {_MAX_TAG_CHARS} characters"
        raise InvalidInput(problem, remedy="Send fewer or shorter ones", field=TAGS_HEADER)
    return tuple(tags)


def _request_tags(request: ChatRequest, header: str) -> tuple[str, ...]:
    nested = request.metadata.tags if request.metadata else None
    return tuple(dict.fromkeys([*(request.tags or ()), *(nested or ()), *header_tags(header)]))


def _tool_choice(request: ChatRequest) -> tuple[_Mode, tuple[ToolSpec, ...]]:
    """Whether the model has to call a tool, and the tools that it may call: a choice may narrow them.

    Raises UnsupportedParameter for a choice of another kind, and InvalidInput for tools that are not there.
    """
    specs, choice = _offered_tools(request), request.tool_choice or "auto"
    mode: _Mode = "required"
    if isinstance(choice, str):
        mode = choice
    else:
        match choice.get("type"):
            case "function":
                names = [_name_in(choice, "tool_choice")]
            case "allowed_tools":
                allowed = choice.get("allowed_tools")
                allowed = allowed if isinstance(allowed, Mapping) else {}
                mode = allowed.get("mode") or "auto"
                if mode not in ("auto", "required"):
                    where = "tool_choice.allowed_tools.mode"
                    raise InvalidInput(f"{where}: must be 'auto' or 'required'", field=where)
                listed = allowed.get("tools") or ()
                where = "tool_choice.allowed_tools.tools"
                names = [_name_in(tool, f"{where}.{number}") for number, tool in enumerate(listed)]
            case kind:
                raise _not_a_function("tool_choice.type", kind)
        specs = tuple(spec for spec in specs if spec.name in names)
    if mode == "required" and not specs:
        raise InvalidInput("tool_choice asks for a tool that is not there", field="tool_choice")
    return mode, specs


def _name_in(tool: Any, where: str) -> str:
    """The function that a choice names."""
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    if kind != "function":
        raise _not_a_function(f"{where}.type", kind)
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise InvalidInput(f"{where}.function.name: this field is required", field=f"{where}.function.name")
    return name


def _not_a_function(where: str, kind: Any) -> UnsupportedParameter:
    return UnsupportedParameter(f"{where}: {kind!r} is not possible here", remedy=_FUNCTIONS, field=where)


def _offered_tools(request: ChatRequest) -> tuple[ToolSpec, ...]:
    """The tools that are offered. Raises InvalidInput for parameters whose schema is none."""
    for number, tool in enumerate(request.tools or ()):
        check_schema(tool.function.parameters, f"tools.{number}.function.parameters")
    return tuple(
        ToolSpec(
            name=tool.function.name,
            description=tool.function.description,
            parameters=tool.function.parameters,
            strict=tool.function.strict,
        )
        for tool in request.tools or ()
    )


def _answer_schema(request: ChatRequest) -> dict[str, Any] | None:
    """The shape that the answer is to have, None for text. Raises InvalidInput where it is no schema."""
    response_format = request.response_format
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return {"type": "object"}
    if response_format.json_schema is None:
        raise InvalidInput("response_format of type json_schema has no json_schema", field="response_format")
    check_schema(response_format.json_schema.schema_, "response_format")
    return response_format.json_schema.schema_


def read_messages(messages: Sequence[RequestMessage]) -> tuple[ChatMessage, ...]:
    """The conversation as the port has it. Raises UnsupportedParameter for parts of other kinds."""
    return tuple(_read_message(number, message) for number, message in enumerate(messages))


def _read_message(number: int, message: RequestMessage) -> ChatMessage:
    text, parts = _read_content(number, message.content)
    return ChatMessage(
        # Developers speak as the system does.
        role="system" if message.role == "developer" else message.role,
        content=text,
        parts=parts,
        tool_calls=tuple(
            ToolCall(
                id=call.id,
                name=call.function.name,
                arguments=call.function.arguments,
                extra={name: value for name, value in (call.model_extra or {}).items() if name != "index"},
            )
            for call in message.tool_calls or ()
        ),
        tool_call_id=message.tool_call_id,
        extra=_extra_fields(message),
        thinking=signed_blocks(message.thinking_blocks or ()),
    )


def _extra_fields(message: RequestMessage) -> dict[str, Any]:
    """The fields that the provider of a message with calls of tools wants back."""
    if not message.tool_calls:
        return {}
    values = {name: getattr(message, name) for name in WANTED_BACK}
    return {name: value for name, value in values.items() if value}


def _read_content(
    number: int, content: str | list[ChatPart] | None
) -> tuple[str, tuple[dict[str, Any], ...]]:
    """The text that a message begins with, and the parts that follow it."""
    if content is None or isinstance(content, str):
        return content or "", ()
    other = next((part.type for part in content if part.type not in _PARTS), None)
    if other is not None:
        where = f"messages.{number}.content"
        raise UnsupportedParameter(
            f"{where}: {other!r} is not possible here", remedy=f"There are {', '.join(_PARTS)}", field=where
        )
    words = list(takewhile(lambda part: part.type == "text" and not part.model_extra, content))
    if all(part.type in ("text", "refusal") and not part.model_extra for part in content):
        words = content
    parts = tuple(part.model_dump(exclude_unset=True) for part in content[len(words) :])
    return "".join(part.text for part in words), parts


# Answers


class ChatCall:
    """A chat completion: its request, and its answer, whose pieces share one id and time.

    Raises InvalidInput for a request that the mesh cannot do; `header` has more tags, with commas between.
    """

    passed_over: tuple[str, ...] = ()

    def __init__(self, body: ChatRequest, header: str = "") -> None:
        self.request = model_request(body, header)
        self.streams = bool(body.stream)
        self._with_usage = body.stream_options is not None and body.stream_options.include_usage
        self.name(new_id(), int(time.time()))

    def name(self, answer_id: str, created: int) -> None:
        """Give the answer its id and time."""
        self._head = {"id": f"chatcmpl-{answer_id}", "created": created}

    def whole(self, reply: ModelReply) -> dict[str, Any]:
        """The answer at once."""
        message: dict[str, Any] = {"role": "assistant", "content": reply.content, "refusal": None}
        if reply.tool_calls:
            message["content"] = reply.content or None
            message["tool_calls"] = [_call_body(call) for call in reply.tool_calls]
        message |= reply.extra | _files_body(reply) | _thinking_body(reply)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _ending(reply)}
        return {
            **self._head,
            "object": "chat.completion",
            "model": reply.model,
            "choices": [choice],
            "usage": _usage_body(reply.usage),
        }

    async def frames(self, call: StreamedCall) -> AsyncGenerator[bytes]:
        """The answer as server-sent events; an error ends it."""
        yield _frame(self._piece({"role": "assistant", "content": ""}))
        reasoning = _LiveReasoning()
        try:
            async for piece in call.pieces():
                name, text = "content", piece
                if isinstance(piece, Thinking):
                    name, text = "reasoning_content", reasoning.add(piece)
                if text:
                    yield _frame(self._piece({name: text}))
            reply = await call.reply()
        except MeshError as error:
            yield _frame(openai_error(error))
            return
        for document in self._last(reply, reasoning.sent):
            yield _frame(document)
        yield b"data: [DONE]\n\n"

    def _piece(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk([choice])

    def _last(self, reply: ModelReply, reasoning: str) -> Iterator[dict[str, Any]]:
        """Yields the end of a streamed answer: the tools that it calls, why it ended, and its tokens.

        Blocks of thinking are in one piece: an SDK cannot put lists of them together.
        """
        calls = [{"index": index, **_call_body(call)} for index, call in enumerate(reply.tool_calls)]
        if calls:
            yield self._piece({"tool_calls": calls})
        rest = {name: value for name, value in reply.extra.items() if name != "reasoning_content"}
        if others := rest | _files_body(reply) | _thinking_body(reply, reasoning):
            yield self._piece(others)
        yield self._piece({}, _ending(reply))
        if self._with_usage:
            usage = _usage_body(reply.usage)
            if reply.cost_usd is not None:
                usage["cost"] = float(reply.cost_usd)  # no header can say it before
            yield {**self._chunk([]), "usage": usage}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        model = self.request.model
        return {**self._head, "object": "chat.completion.chunk", "model": model, "choices": choices}


def _call_body(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function, **call.extra}


def _files_body(reply: ModelReply) -> dict[str, Any]:
    """The pictures and the sound of a reply, as OpenRouter, Gemini and OpenAI write them."""
    sound = next((file for file in reply.files if file.media_type.startswith("audio/") and file.data), None)
    images = [file for file in reply.files if file is not sound]
    body: dict[str, Any] = {}
    if images:
        urls = [{"url": file.data_url} for file in images]
        body["images"] = [{"index": n, "type": "image_url", "image_url": url} for n, url in enumerate(urls)]
    if sound is not None:
        data = base64.b64encode(sound.data).decode()
        body["audio"] = {
            "id": f"audio-{new_id()}",
            "data": data,
            "transcript": reply.content,
            "expires_at": 0,
        }
    return body


def _thinking_body(reply: ModelReply, sent: str = "") -> dict[str, Any]:
    """The thinking of a reply, as LiteLLM writes it: its blocks, and their text but for what was sent."""
    if not reply.thinking:
        return {}
    text = text_of_blocks(reply.thinking)[len(sent) :]
    return {"thinking_blocks": list(reply.thinking), **({"reasoning_content": text} if text else {})}


class _LiveReasoning:
    """The text of thinking that comes in pieces; `sent` is all of it so far."""

    def __init__(self) -> None:
        self.sent = self._ended = ""

    def add(self, piece: Thinking) -> str:
        """Returns the text that a piece adds: that of a block which has not come before it."""
        text = piece.text
        if piece.block is not None:
            self._ended += text_of_blocks([piece.block])
            text = self._ended[len(self.sent) :]
        self.sent += text
        return text


def _ending(reply: ModelReply) -> str | None:
    """Why an answer ended: clients look for `tool_calls`, whatever a provider says."""
    if reply.tool_calls:
        return "tool_calls"
    return None if reply.finish_reason == UNSTATED else reply.finish_reason


def _usage_body(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _frame(document: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % to_json(document)


class ChatDialect:
    """OpenAI's chat completions."""

    path = "/v1/chat/completions"
    request_id_header = OPENAI_REQUEST_ID

    def read(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> ChatCall:
        """Reads a request. Raises InvalidInput with the field that is wrong."""
        try:
            request = ChatRequest.model_validate(body)
        except ValidationError as error:
            raise invalid_body(error) from None
        return ChatCall(request, headers.get(TAGS_HEADER, ""))

    def error(self, error: MeshError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Returns status, headers and document of an error."""
        return openai_answer(error)


CHAT = ChatDialect()

"""Anthropic's Messages API, as its clients and Claude Code use it. Nothing is stored."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from meshwright.core.capability import LLM_SERVICE
from meshwright.core.errors import InvalidInput, MeshError
from meshwright.core.ids import ID_PATTERN, Identifier, new_id
from meshwright.core.messages import Usage
from meshwright.core.schema_checks import check_schema
from meshwright.models.port import ANTHROPIC_PARAMS, UNSTATED, ModelReply, ModelRequest, ToolSpec
from meshwright.models.thinking import Thinking
from meshwright.models.wire.chat import TAGS_HEADER, header_tags
from meshwright.models.wire.errors import (
    ANTHROPIC_REQUEST_ID,
    ThreadUnsupported,
    UnsupportedParameter,
    anthropic_answer,
    anthropic_error,
    invalid_body,
)
from meshwright.models.wire.message_blocks import BlockReader, reply_blocks
from meshwright.models.wire.port import plain_names, tokens_in
from meshwright.models.wire.stream import StreamedCall

BETA_HEADER = "anthropic-beta"
CLAUDE_GROUPS: Mapping[str, str] = {"claude-*haiku*": "fast", "claude-*": "default"}
"""Groups by patterns of the names that clients of this API know; settings come before them."""
PING_SECONDS = 15.0
"""Without a word a stream of this API has a ping: less than proxies and clients wait for a next byte."""
COUNT_PATH = "/v1/messages/count_tokens"
_NATIVE_FIELDS = ("thinking", "context_management", "top_k", "cache_control", "service_tier")
_STORED = ("container", "thread")
_NOT_STORED = "Send the whole conversation as `messages`: nothing is stored here"
_CLIENTS = "Offer tools with an input_schema: the mesh runs no hosted ones"
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_BUDGETS = ((4096, "low"), (16_384, "medium"))  # up to so many tokens of thinking
_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}
_EMPTY = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}
_TIMEOUT_SECONDS = 600.0  # what Anthropic's SDK waits for
_MAX_BETAS = 1024  # characters


class MessageParam(BaseModel):
    """One message of the conversation: text, or blocks."""

    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class CountRequest(BaseModel):
    """A prompt whose tokens are counted, as Anthropic's API has it."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=128)
    messages: list[MessageParam] = Field(min_length=1)
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


class MessagesRequest(CountRequest):
    """A message to be made, as Anthropic's API has it."""

    max_tokens: int = Field(ge=1, le=1_000_000)
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    metadata: dict[str, Any] | None = None
    tenant_id: Identifier | None = None


class MessageDocument(BaseModel):
    """A message, as Anthropic has it."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    usage: dict[str, Any]


class TokenCount(BaseModel):
    """The tokens of a prompt."""

    input_tokens: int


class _Prompt:
    """A request as the mesh's model takes it, and what is passed over."""

    def __init__(self, body: CountRequest, headers: Mapping[str, str]) -> None:
        others = {name: value for name, value in (body.model_extra or {}).items() if value is not None}
        for name in _STORED:
            if others.pop(name, None):
                kind = ThreadUnsupported if name == "thread" else UnsupportedParameter
                raise kind(f"{name} is not possible here", remedy=_NOT_STORED, field=name)
        reader = BlockReader()
        messages = reader.read(body.system, [(entry.role, entry.content) for entry in body.messages])
        tools, hosted = _client_tools(body.tools or [])
        names = [name for name in others if name not in (*_NATIVE_FIELDS, "output_format")]
        self.passed_over = [*names, *hosted, *(f"messages.{kind}" for kind in reader.passed_over)]
        self.request = ModelRequest(
            model=body.model,
            messages=messages,
            tags=header_tags(headers.get(TAGS_HEADER, "")),
            user=LLM_SERVICE,
            tools=_chosen(tools, body.tool_choice or {}),
            tool_choice=_tool_choice(body.tool_choice or {}),
            response_schema=_answer_schema(body, others),
            temperature=None,
            max_tokens=None,
            params=_request_params(body, others, headers),
            timeout_seconds=_TIMEOUT_SECONDS,
        )


def request_user(body: MessagesRequest) -> str | None:
    """Returns the user that a request names, where that is an id of the mesh."""
    user = (body.metadata or {}).get("user_id")
    return user if isinstance(user, str) and re.fullmatch(ID_PATTERN, user) else None


def count_tokens(body: CountRequest) -> int:
    """Returns about how many tokens a prompt has: no provider is asked. Raises InvalidInput."""
    return tokens_in(_Prompt(body, {}).request)


def count_document(body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the answer to a request for a count. Raises InvalidInput with the field that is wrong."""
    try:
        return {"input_tokens": count_tokens(CountRequest.model_validate(body))}
    except ValidationError as error:
        raise invalid_body(error) from None


def _client_tools(tools: list[dict[str, Any]]) -> tuple[list[ToolSpec], list[str]]:
    """The tools that clients run, and the names of the others."""
    specs: list[ToolSpec] = []
    hosted: list[str] = []
    for number, tool in enumerate(tools):
        where, kind = f"tools.{number}", tool.get("type") or "custom"
        if kind != "custom":
            hosted.append(f"tools.{kind}")
            continue
        if not isinstance(tool.get("name"), str) or not tool["name"]:
            raise InvalidInput(f"{where}.name is missing", field=f"{where}.name")
        schema = tool.get("input_schema")
        if not isinstance(schema, dict):
            raise InvalidInput(f"{where}.input_schema is missing", field=f"{where}.input_schema")
        check_schema(schema, f"{where}.input_schema")
        description, strict = str(tool.get("description") or ""), tool.get("strict")
        spec = ToolSpec(name=tool["name"], description=description, parameters=schema)
        specs.append(spec.model_copy(update={"strict": strict}) if isinstance(strict, bool) else spec)
    if hosted and not specs:
        raise UnsupportedParameter(
            f"{hosted[0]!r} is not possible here", remedy=_CLIENTS, field="tools.0.type"
        )
    return specs, hosted


def _chosen(tools: list[ToolSpec], choice: Mapping[str, Any]) -> tuple[ToolSpec, ...]:
    if choice.get("type") == "tool":
        tools = [tool for tool in tools if tool.name == choice.get("name")]
    if choice.get("type") in ("tool", "any") and not tools:
        raise InvalidInput("tool_choice asks for a tool that is not there", field="tool_choice")
    return tuple(tools)


def _tool_choice(choice: Mapping[str, Any]) -> Literal["auto", "required", "none"]:
    match choice.get("type") or "auto":
        case "auto":
            return "auto"
        case "none":
            return "none"
        case "any" | "tool":
            return "required"
        case kind:
            raise InvalidInput(f"tool_choice.type: {kind!r} is not possible here", field="tool_choice.type")


def _answer_schema(body: CountRequest, others: Mapping[str, Any]) -> dict[str, Any] | None:
    """The shape that the answer is to have, None for text. Raises InvalidInput where it is no schema."""
    form = (body.output_config or {}).get("format") or others.get("output_format")
    if form is None:
        return None
    schema = form.get("schema") if isinstance(form, Mapping) else None
    if not isinstance(schema, dict):
        raise InvalidInput("output_config.format has no schema", field="output_config.format")
    check_schema(schema, "output_config.format.schema")
    return schema


def _request_params(
    body: CountRequest, others: Mapping[str, Any], headers: Mapping[str, str]
) -> dict[str, Any]:
    """The parameters in words that every provider knows, and those of providers with this API."""
    params: dict[str, Any] = {}
    if isinstance(body, MessagesRequest):
        fields = {"top_p": body.top_p, "stop": body.stop_sequences}
        params |= {name: value for name, value in fields.items() if value}
    if (body.tool_choice or {}).get("disable_parallel_tool_use"):
        params["parallel_tool_calls"] = False
    if effort := _reasoning_effort(body):
        params["reasoning_effort"] = effort
    native = {name: others[name] for name in _NATIVE_FIELDS if name in others}
    if body.thinking is not None:
        native["thinking"] = body.thinking
    if effort := (body.output_config or {}).get("effort"):
        native["output_config"] = {"effort": effort}
    if betas := headers.get(BETA_HEADER, "")[:_MAX_BETAS]:
        native["betas"] = betas
    return {**params, ANTHROPIC_PARAMS: native} if native else params


def _reasoning_effort(body: CountRequest) -> str | None:
    """How much a model shall reason, for providers with another API; None where it shall not."""
    thinking = body.thinking or {}
    if thinking.get("type") not in ("enabled", "adaptive"):
        return None
    effort = _EFFORTS.get(str((body.output_config or {}).get("effort")))
    budget = thinking.get("budget_tokens")
    if effort is not None or not isinstance(budget, int):
        return effort
    return next((word for most, word in _BUDGETS if budget <= most), "high")


# Answers


class MessageCall:
    """A message: its request, and its answer with one id, in blocks as Anthropic writes them.

    Raises InvalidInput for a request that the mesh cannot do.
    """

    def __init__(self, body: MessagesRequest, headers: Mapping[str, str]) -> None:
        reading = _Prompt(body, headers)
        limits = {"max_tokens": body.max_tokens, "temperature": body.temperature}
        self.request = reading.request.model_copy(update=limits)
        self.streams = bool(body.stream)
        self.passed_over = plain_names(reading.passed_over)
        self.name(new_id())

    def name(self, answer_id: str, created: int = 0) -> None:
        """Give the message its id; it says no time."""
        self._id = f"msg_{answer_id}"

    def whole(self, reply: ModelReply) -> dict[str, Any]:
        """The message at once."""
        return {
            **self._opening(reply.model),
            "content": _reply_content(reply),
            "stop_reason": _stop_reason(reply),
            "usage": _usage_fields(reply.usage),
        }

    async def frames(self, call: StreamedCall) -> AsyncGenerator[bytes]:
        """The message as server-sent events, with a ping while nothing comes; an error ends it.

        Thinking comes before the text where the model streams it so or the answer is whole, as one that is
        replayed; else behind the text.
        """
        usage = _usage_fields(Usage(prompt_tokens=tokens_in(self.request)))
        opening = {**self._opening(self.request.model), "usage": {**usage, "output_tokens": 1}}
        yield _frame("message_start", message=opening)
        yield _frame("ping")
        blocks = _LiveBlocks()
        try:
            async for piece in call.pieces(PING_SECONDS):
                for frame in blocks.add(piece) if piece else [_frame("ping")]:
                    yield frame
            reply = await call.reply()
        except MeshError as error:
            yield _frame("error", **anthropic_error(error))
            return
        for frame in blocks.rest(reply):
            yield frame
        ending = {"stop_reason": _stop_reason(reply), "stop_sequence": None}
        yield _frame("message_delta", delta=ending, usage=_usage_fields(reply.usage))
        yield _frame("message_stop")

    def _opening(self, model: str) -> dict[str, Any]:
        head = {"id": self._id, "type": "message", "role": "assistant", "model": model}
        return {**head, "content": list[Any](), "stop_reason": None, "stop_sequence": None}


def _reply_content(reply: ModelReply) -> list[dict[str, Any]]:
    """The blocks of a message: thinking, text, calls of tools."""
    text = [{"type": "text", "text": reply.content}] if reply.content else []
    others = reply_blocks(reply)
    return [*others[: len(reply.thinking)], *text, *others[len(reply.thinking) :]]


class _LiveBlocks:
    """The events of blocks whose text and thinking come in pieces."""

    def __init__(self) -> None:
        self._index = 0
        self._open = ""
        self._thinking_count = 0

    def add(self, piece: str | Thinking) -> Iterator[bytes]:
        """Yields the events of the next piece."""
        if isinstance(piece, str):
            yield from self._grow("text", piece)
        elif piece.block is None:
            yield from self._grow("thinking", piece.text)
        elif self._open == piece.block["type"]:
            if signature := piece.block.get("signature"):
                yield self._delta("signature", signature)
            yield from self._close()
        else:
            yield from self._close()
            yield from self._whole(piece.block)
            self._thinking_count += 1

    def rest(self, reply: ModelReply) -> Iterator[bytes]:
        """Yields the events of all that did not come in pieces."""
        yield from self._close()
        for block in reply_blocks(reply)[self._thinking_count :]:
            yield from self._whole(block)

    def _grow(self, kind: str, text: str) -> Iterator[bytes]:
        if self._open != kind:
            yield from self._close()
            self._open = kind
            self._thinking_count += kind == "thinking"
            block = {"type": kind, **_EMPTY[kind]}
            yield _frame("content_block_start", index=self._index, content_block=block)
        yield self._delta(kind, text)

    def _delta(self, kind: str, text: str) -> bytes:
        return _frame("content_block_delta", index=self._index, delta={"type": f"{kind}_delta", kind: text})

    def _close(self) -> Iterator[bytes]:
        if self._open:
            yield _frame("content_block_stop", index=self._index)
            self._open, self._index = "", self._index + 1

    def _whole(self, block: Mapping[str, Any]) -> Iterator[bytes]:
        yield from _block_frames(self._index, block)
        self._index += 1


def _block_frames(index: int, block: Mapping[str, Any]) -> Iterator[bytes]:
    """The events of a block that is whole."""
    empty, deltas = dict(block), list[dict[str, Any]]()
    if block["type"] == "tool_use":
        empty["input"] = dict[str, Any]()
        deltas.append({"type": "input_json_delta", "partial_json": to_json(block["input"]).decode()})
    elif block["type"] == "thinking":
        empty |= _EMPTY["thinking"]
        names = (("thinking", "thinking_delta"), ("signature", "signature_delta"))
        deltas += [{"type": kind, name: block[name]} for name, kind in names if block.get(name)]
    yield _frame("content_block_start", index=index, content_block=empty)
    for delta in deltas:
        yield _frame("content_block_delta", index=index, delta=delta)
    yield _frame("content_block_stop", index=index)


def _frame(kind: str, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), to_json({**fields, "type": kind}))


def _stop_reason(reply: ModelReply) -> str | None:
    if reply.tool_calls and reply.finish_reason != "length":
        return "tool_use"
    if reply.finish_reason == UNSTATED:
        return None
    return _REASONS.get(reply.finish_reason, "end_turn")


def _usage_fields(usage: Usage) -> dict[str, Any]:
    """The tokens as the API counts them: those of its cache apart."""
    from_cache, to_cache = usage.cached_tokens, usage.cache_write_tokens
    return {
        "input_tokens": max(0, usage.prompt_tokens - from_cache - to_cache),
        "cache_creation_input_tokens": to_cache,
        "cache_read_input_tokens": from_cache,
        "output_tokens": usage.completion_tokens,
    }


class MessagesDialect:
    """Anthropic's Messages API."""

    path = "/v1/messages"
    request_id_header = ANTHROPIC_REQUEST_ID

    def read(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> MessageCall:
        """Reads a request. Raises InvalidInput with the field that is wrong."""
        try:
            request = MessagesRequest.model_validate(body)
        except ValidationError as error:
            raise invalid_body(error) from None
        return MessageCall(request, headers)

    def error(self, error: MeshError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Returns status, headers and document of an error."""
        return anthropic_answer(error)


MESSAGES = MessagesDialect()

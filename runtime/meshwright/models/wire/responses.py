"""OpenAI's Responses API, in what it has in common with chat completions. Nothing is stored."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Mapping
from itertools import count
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from meshwright.core.errors import InvalidInput, MeshError
from meshwright.core.ids import Identifier, new_id
from meshwright.models.port import ModelReply
from meshwright.models.wire.chat import TAGS_HEADER, ChatRequest, model_request
from meshwright.models.wire.errors import (
    OPENAI_REQUEST_ID,
    UnsupportedParameter,
    invalid_body,
    openai_answer,
    openai_error,
)
from meshwright.models.wire.port import plain_names, tokens_in
from meshwright.models.wire.response_events import LiveItems, item_events, message_item
from meshwright.models.wire.response_items import NOT_STORED, ConversationReader, reasoning_item
from meshwright.models.wire.response_tools import ResponseTools
from meshwright.models.wire.stream import StreamedCall

INPUT_TOKENS_PATH = "/v1/responses/input_tokens"
_TIMEOUT_SECONDS = 600.0  # what OpenAI's SDK waits for
_STORED = ("previous_response_id", "conversation", "prompt", "background")
"""Fields that ask for what the mesh has not stored, or would have to."""
_TO_PROVIDER = frozenset(
    {"top_p", "top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty", "logit_bias"}
    | {"repetition_penalty", "parallel_tool_calls", "service_tier", "prompt_cache_key", "safety_identifier"}
    | {"prompt_cache_retention", "thinking", "tags", "cache", "n", "logprobs", "top_logprobs"}
)
"""Fields that chat completions have too, or other providers than OpenAI."""
_USUAL: dict[str, tuple[Any, ...]] = {
    "store": (False,),
    "truncation": ("disabled",),
    "include": ([], ["reasoning.encrypted_content"]),
}
"""Values that ask for nothing but what the mesh does."""
REQUIRES_ACTION = "requires_action"
"""The reason for the end of an answer that is a question: the response is incomplete."""
_UNFINISHED = {"length": "max_output_tokens", REQUIRES_ACTION: REQUIRES_ACTION}
"""Why a response is incomplete, by the reason for its end."""


class ResponsesRequest(BaseModel):
    """A response to be made, as OpenAI's API has it."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=128)
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    user: Identifier | None = None
    tenant_id: Identifier | None = None


class ResponseDocument(BaseModel):
    """A response, as OpenAI has it."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"]
    created_at: int
    status: str
    model: str
    output: list[dict[str, Any]]


class _Reading:
    """A request as a chat completion, with its tools and what is passed over."""

    def __init__(self, request: ResponsesRequest) -> None:
        others = {name: value for name, value in (request.model_extra or {}).items() if value is not None}
        for name in _STORED:
            if others.pop(name, None):
                raise UnsupportedParameter(f"{name} is not possible here", remedy=NOT_STORED, field=name)
        if request.input is None:
            raise InvalidInput("input: this field is required", field="input")
        self.tools = ResponseTools()
        self.tools.add("tools", request.tools or [])
        conversation = ConversationReader(self.tools)
        conversation.read(request.instructions, request.input)
        if not conversation.messages:
            raise InvalidInput("input: it is empty", field="input")
        self.tools.require_some()
        tools = [f"tools.{kind}" for _, kind in self.tools.passed_over]
        items = [f"input.{kind}" for kind in conversation.passed_over]
        self.passed_over = plain_names([*_without_effect(others), *tools, *items])
        self.chat = _chat_request(request, conversation.messages, self.tools, others)


def _without_effect(others: Mapping[str, Any]) -> list[str]:
    names = [name for name in others if name not in _TO_PROVIDER and name != "metadata"]
    return [name for name in names if others[name] not in _USUAL.get(name, ())]


def _chat_request(
    request: ResponsesRequest, messages: list[dict[str, Any]], tools: ResponseTools, others: dict[str, Any]
) -> ChatRequest:
    text_options = request.text or {}
    metadata = others.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, Mapping) else None
    choice = tools.choose(request.tool_choice)  # it may narrow the tools
    fields: dict[str, Any] = {
        **{name: value for name, value in others.items() if name in _TO_PROVIDER},
        "model": request.model,
        "messages": messages,
        "stream": request.stream,
        "tools": tools.functions or None,
        "tool_choice": choice,
        "response_format": _read_format(text_options.get("format")),
        "verbosity": text_options.get("verbosity"),
        "reasoning_effort": (request.reasoning or {}).get("effort"),
        "max_completion_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "user": request.user,
        "tenant_id": request.tenant_id,
        "metadata": {"tags": tags} if isinstance(tags, list) else None,
    }
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise invalid_body(error) from None


def _read_format(text_format: Any) -> Any:
    if not isinstance(text_format, Mapping) or text_format.get("type") != "json_schema":
        return text_format
    return {
        "type": "json_schema",
        "json_schema": {name: value for name, value in text_format.items() if name != "type"},
    }


# Answers


class ResponseCall:
    """A response: its request, and its answer with one id and time, in parts as OpenAI writes them.

    Raises InvalidInput for a request that the mesh cannot do; `header` has more tags, with commas between.
    `stored` are the fields of a response that is stored.
    """

    def __init__(
        self, body: ResponsesRequest, header: str = "", *, stored: Mapping[str, Any] | None = None
    ) -> None:
        reading = _Reading(body)
        request = model_request(reading.chat, header)
        self.request = request.model_copy(update={"timeout_seconds": _TIMEOUT_SECONDS})
        self.streams = bool(body.stream)
        self.passed_over = reading.passed_over
        self._tools = reading.tools
        self._body = body
        self._stored = stored or {}
        self.name(new_id(), int(time.time()))

    def name(self, answer_id: str, created: int) -> None:
        """Give the response and its items their ids, and its time."""
        self._ids = {name: f"{name}_{answer_id}" for name in ("resp", "msg", "rs")}
        self._created_at = created

    def whole(self, reply: ModelReply) -> dict[str, Any]:
        """The response at once."""
        return self._ended(reply, self._output(reply))

    def _ended(self, reply: ModelReply, output: list[dict[str, Any]]) -> dict[str, Any]:
        reason = _UNFINISHED.get(reply.finish_reason)
        usage = reply.usage
        return {
            **self.document("incomplete" if reason else "completed", output, reply.model),
            "incomplete_details": {"reason": reason} if reason else None,
            "usage": {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": usage.cached_tokens},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
        }

    async def frames(self, call: StreamedCall) -> AsyncGenerator[bytes]:
        """The response as server-sent events; an error ends it."""
        numbers = count()

        def frame(kind: str, **fields: Any) -> bytes:
            document = to_json({"type": kind, "sequence_number": next(numbers), **fields})
            return b"event: %s\ndata: %s\n\n" % (kind.encode(), document)

        for kind in ("response.created", "response.in_progress"):
            yield frame(kind, response=self.document("in_progress", [], self._body.model))
        live = LiveItems(self._ids)
        try:
            async for piece in call.pieces():
                for kind, fields in live.add(piece):
                    yield frame(kind, **fields)
            reply = await call.reply()
        except MeshError as error:
            document = openai_error(error)
            yield frame("error", **document["error"], **document)
            failed = self.document("failed", [], self._body.model) | {"error": document["error"]}
            yield frame("response.failed", response=failed)  # Codex reads this one alone
            return
        for kind, fields in live.end():
            yield frame(kind, **fields)
        output = self._output(reply, len(live.blocks))
        for index, item in enumerate(output[live.index :], start=live.index):
            for kind, fields in item_events(index, item):
                yield frame(kind, **fields)
        response = self._ended(reply, output)
        yield frame(f"response.{response['status']}", response=response)

    def _output(self, reply: ModelReply, early: int | None = None) -> list[dict[str, Any]]:
        """The items of a reply: thinking, of which `early` blocks come before the message, then calls."""
        before, after = reply.thinking[:early], reply.thinking[early:] if early is not None else ()
        calls = [*map(self._tools.call_item, reply.tool_calls), *_pictures(reply)]
        items = [reasoning_item(self._ids["rs"], before)] if before else []
        if reply.content or not calls:
            items.append(message_item(self._ids["msg"], reply.content))
        if after:
            items.append(reasoning_item(f"{self._ids['rs']}_2", after))
        return [*items, *calls]

    def document(
        self, status: str, output: list[dict[str, Any]] | None = None, model: str = ""
    ) -> dict[str, Any]:
        """The response in any state, without tokens."""
        request, others = self._body, self._body.model_extra or {}
        return {
            "id": self._ids["resp"],
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": others.get("metadata") or {},
            "model": model or request.model,
            "output": output or [],
            "parallel_tool_calls": others.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None, **(request.reasoning or {})},
            "store": False,
            "temperature": request.temperature,
            "text": {"format": {"type": "text"}, **(request.text or {})},
            "tool_choice": request.tool_choice or "auto",
            "tools": request.tools or [],
            "top_p": others.get("top_p"),
            "truncation": "disabled",
            "usage": None,
            "user": request.user,
            **self._stored,
        }


def _pictures(reply: ModelReply) -> list[dict[str, Any]]:
    """The pictures of a reply as OpenAI's own tool gives them."""
    pictures = [file for file in reply.files if file.data and file.media_type.startswith("image/")]
    return [
        {
            "type": "image_generation_call",
            "id": f"ig_{n}",
            "status": "completed",
            "result": base64.b64encode(file.data).decode(),
        }
        for n, file in enumerate(pictures)
    ]


class InputTokens(BaseModel):
    """The tokens of a request, as OpenAI has them."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


def count_input(body: ResponsesRequest) -> InputTokens:
    """Returns about how many tokens a request has: no provider is asked. Raises InvalidInput."""
    return InputTokens(input_tokens=tokens_in(ResponseCall(body).request))


def input_document(body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the answer to a request for a count. Raises InvalidInput with the field that is wrong."""
    try:
        return count_input(ResponsesRequest.model_validate(body)).model_dump()
    except ValidationError as error:
        raise invalid_body(error) from None


class ResponsesDialect:
    """OpenAI's Responses API."""

    path = "/v1/responses"
    request_id_header = OPENAI_REQUEST_ID

    def read(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> ResponseCall:
        """Reads a request. Raises InvalidInput with the field that is wrong."""
        try:
            request = ResponsesRequest.model_validate(body)
        except ValidationError as error:
            raise invalid_body(error) from None
        return ResponseCall(request, headers.get(TAGS_HEADER, ""))

    def error(self, error: MeshError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Returns status, headers and document of an error."""
        return openai_answer(error)


RESPONSES = ResponsesDialect()

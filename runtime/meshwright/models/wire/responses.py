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
from meshwright.models.port import ModelReply, ToolCall
from meshwright.models.wire.chat import TAGS_HEADER, ChatRequest, model_request
from meshwright.models.wire.errors import UnsupportedParameter, invalid_body, openai_answer, openai_error
from meshwright.models.wire.stream import StreamedCall

_PASSED_OVER = frozenset(
    {"store", "truncation", "include", "metadata", "background", "conversation", "prompt"}
)
"""Parameters without an effect here; those of _STORED must not ask for one."""
_STORED = ("previous_response_id", "conversation", "prompt", "background")
_REMEDY = "Send the whole conversation as `input`: responses are not stored here"
_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "text"}


class ResponsesRequest(BaseModel):
    """A response to be made, as OpenAI's API has it."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=128)
    input: str | list[dict[str, Any]]
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


def chat_request(request: ResponsesRequest) -> ChatRequest:
    """The chat completion that a response is made of. Raises InvalidInput for what there is not here."""
    others = dict(request.model_extra or {})
    for name in _STORED:
        if others.pop(name, None):
            raise UnsupportedParameter(f"{name} is not possible here", remedy=_REMEDY, field=name)
    tags = (others.get("metadata") or {}).get("tags")
    text_options = request.text or {}
    fields: dict[str, Any] = {
        **{name: value for name, value in others.items() if name not in _PASSED_OVER},
        "model": request.model,
        "messages": _messages_of(request),
        "stream": request.stream,
        "tools": [_tool_of(number, tool) for number, tool in enumerate(request.tools or ())] or None,
        "tool_choice": _choice_of(request.tool_choice),
        "response_format": _format_of(text_options.get("format")),
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


def _messages_of(request: ResponsesRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if request.instructions:
        messages.append({"role": "system", "content": request.instructions})
    items = [{"role": "user", "content": request.input}] if isinstance(request.input, str) else request.input
    for number, item in enumerate(items):
        match item.get("type") or "message":
            case "message":
                messages.append(
                    {"role": item.get("role"), "content": _content_of(number, item.get("content"))}
                )
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments") or "{}"}
                call = {"id": item.get("call_id"), "type": "function", "function": function}
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": None})
                messages[-1].setdefault("tool_calls", []).append(call)
            case "function_call_output":
                content = _content_of(number, item.get("output"))
                messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
            case "reasoning":
                pass  # a summary for people; providers want back what they wrote themselves
            case other:
                raise _refused(f"input.{number}.type", other)
    return messages


def _content_of(number: int, content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [_part_of(f"input.{number}.content.{place}", part) for place, part in enumerate(content)]


def _part_of(where: str, part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _PARTS:
        return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    if kind == "input_file":
        names = {
            "file_data": "file_data",
            "file_id": "file_id",
            "file_url": "file_id",
            "filename": "filename",
        }
        return {"type": "file", "file": {ours: part[name] for name, ours in names.items() if part.get(name)}}
    raise _refused(f"{where}.type", kind)


def _tool_of(number: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise _refused(f"tools.{number}.type", tool.get("type"))
    names = ("name", "description", "parameters", "strict")
    return {
        "type": "function",
        "function": {name: tool[name] for name in names if tool.get(name) is not None},
    }


def _choice_of(choice: str | dict[str, Any] | None) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") != "function":
        raise _refused("tool_choice.type", choice.get("type"))
    return {"type": "function", "function": {"name": choice.get("name")}}


def _format_of(text_format: Any) -> Any:
    if not isinstance(text_format, Mapping) or text_format.get("type") != "json_schema":
        return text_format
    return {
        "type": "json_schema",
        "json_schema": {name: value for name, value in text_format.items() if name != "type"},
    }


def _refused(where: str, kind: Any) -> InvalidInput:
    return UnsupportedParameter(f"{where}: {kind!r} is not possible here", remedy=_REMEDY, field=where)


# Answers


class ResponseCall:
    """A response: its request, and its answer with one id and time, in parts as OpenAI writes them.

    Raises InvalidInput for a request that the mesh cannot do; `header` has more tags, with commas between.
    """

    passed_over: tuple[str, ...] = ()

    def __init__(self, body: ResponsesRequest, header: str = "") -> None:
        self.request = model_request(chat_request(body), header)
        self.streams = bool(body.stream)
        self._body = body
        self._ids = {name: f"{name}_{new_id()}" for name in ("resp", "msg")}
        self._created_at = int(time.time())

    def whole(self, reply: ModelReply) -> dict[str, Any]:
        """The response at once."""
        cut_off = reply.finish_reason == "length"
        usage = reply.usage
        return {
            **self._document("incomplete" if cut_off else "completed", self._output(reply), reply.model),
            "incomplete_details": {"reason": "max_output_tokens"} if cut_off else None,
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
            yield frame(kind, response=self._document("in_progress", [], self._body.model))
        place = {"item_id": self._ids["msg"], "output_index": 0, "content_index": 0}
        text = ""
        try:
            async for piece in call.pieces():
                if not text:
                    item = {**self._message(""), "status": "in_progress", "content": list[Any]()}
                    yield frame("response.output_item.added", output_index=0, item=item)
                    yield frame("response.content_part.added", **place, part=_text_part(""))
                text += piece
                yield frame("response.output_text.delta", **place, delta=piece, logprobs=[])
            reply = await call.reply()
        except MeshError as error:
            document = openai_error(error)
            yield frame("error", **document["error"], **document)
            return
        if text:
            yield frame("response.output_text.done", **place, text=text, logprobs=[])
            yield frame("response.content_part.done", **place, part=_text_part(text))
            yield frame("response.output_item.done", output_index=0, item=self._message(text))
        for index, tool_call in enumerate(reply.tool_calls, start=int(bool(text))):
            item, at = _call_item(tool_call), {"output_index": index}
            unwritten = {**item, "arguments": "", "status": "in_progress"}
            yield frame("response.output_item.added", **at, item=unwritten)
            at_item = {"item_id": item["id"], **at}
            arguments = tool_call.arguments
            yield frame("response.function_call_arguments.delta", **at_item, delta=arguments)
            function = {"name": tool_call.name, "arguments": arguments}
            yield frame("response.function_call_arguments.done", **at_item, **function)
            yield frame("response.output_item.done", **at, item=item)
        for index, item in enumerate(_pictures(reply), start=int(bool(text)) + len(reply.tool_calls)):
            yield frame(
                "response.output_item.added", output_index=index, item={**item, "status": "in_progress"}
            )
            yield frame("response.output_item.done", output_index=index, item=item)
        response = self.whole(reply)
        yield frame(f"response.{response['status']}", response=response)

    def _output(self, reply: ModelReply) -> list[dict[str, Any]]:
        pictures = _pictures(reply)
        has_message = bool(reply.content) or not (reply.tool_calls or pictures)
        messages = [self._message(reply.content)] if has_message else []
        return [*messages, *map(_call_item, reply.tool_calls), *pictures]

    def _message(self, text: str) -> dict[str, Any]:
        content = [_text_part(text)]
        head = {"type": "message", "id": self._ids["msg"], "role": "assistant", "status": "completed"}
        return {**head, "content": content}

    def _document(self, status: str, output: list[dict[str, Any]], model: str) -> dict[str, Any]:
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
            "model": model,
            "output": output,
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
        }


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


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


def _call_item(call: ToolCall) -> dict[str, Any]:
    about = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
    return {"type": "function_call", "id": f"fc_{call.id[:64]}", "status": "completed", **about}


class ResponsesDialect:
    """OpenAI's Responses API."""

    path = "/v1/responses"

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

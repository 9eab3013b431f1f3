"""Anthropic's Messages API."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from meshwright.models.arguments import arguments_object
from meshwright.models.errors import Unsupported
from meshwright.models.http import Pieces, Wire, header_key, reading
from meshwright.models.openai import held_back, with_problem
from meshwright.models.port import (
    ANTHROPIC_PARAMS,
    UNSTATED,
    ChatMessage,
    ModelReply,
    ModelRequest,
    OnDelta,
    ToolCall,
    ToolSpec,
)
from meshwright.models.usage import UsageFields, read_usage
from meshwright.models.written import written

URL = "https://api.anthropic.com"
_VERSION = "2023-06-01"  # docs.anthropic.com/en/api/versioning
_BETAS = "anthropic-beta"
_ANSWER = "structured_answer"
_NO_TEXT = "(no text)"  # the API refuses an empty text, and a conversation that the assistant begins
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}
_THINKING = ("thinking", "redacted_thinking")
_GROWING = {"text": "text", "partial_json": "input_text", "thinking": "thinking", "signature": "signature"}
"""The texts that blocks grow by in a stream, with their names in a whole block."""
_MAX_TOKENS = 8192  # where the caller names no limit: the API wants one
_MIN_THINKING = 1024  # the API's least budget_tokens: docs.anthropic.com, extended thinking
_EFFORTS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 24_576, "xhigh": 32_768}
"""The tokens of thinking that an effort of reasoning stands for."""
_LEFT_OUT = frozenset(
    {"seed", "store", "verbosity", "prediction", "safety_identifier", "prompt_cache_key"}
    | {"prompt_cache_retention", "parallel_tool_calls", "stop", "reasoning_effort"}
)
"""OpenAI's parameters that promise nothing, or that are written in another form."""
_CANNOT = ("presence_penalty", "frequency_penalty", "logit_bias", "modalities", "audio")
_REFUSALS = ("deprecated", "not support", "may only be set", "not permitted", "not match")
_OPTIONAL = {
    "context_management": "context_management",
    "output_config": "effort",
    "thinking": "adaptive",
    "top_k": "top_k",
}
"""Fields of clients that a call can do without, and the word by which a refusal names them."""
_EPHEMERAL = {"type": "ephemeral"}
_FROM_CACHE, _TO_CACHE = ("cache_read_input_tokens",), ("cache_creation_input_tokens",)
_USAGE: UsageFields = {
    "prompt_tokens": (("input_tokens",), _FROM_CACHE, _TO_CACHE),  # it counts tokens of its cache apart
    "completion_tokens": (("output_tokens",),),
    "cached_tokens": (_FROM_CACHE,),
    "cache_write_tokens": (_TO_CACHE,),
}


class _BlockPieces(Pieces):
    def __init__(self, on_delta: OnDelta, max_chars: int) -> None:
        super().__init__(on_delta, max_chars)
        self._message: dict[str, Any] = {}
        self._usage: Any = dict[str, Any]()
        self._blocks: dict[int, dict[str, Any]] = {}
        self._grown: dict[tuple[int, str], list[str]] = {}
        self._thinks_at: int | None = None

    def add(self, chunk: Mapping[str, Any]) -> None:
        match chunk["type"]:
            case "message_start":
                self._message = dict(chunk["message"])
                self._count(self._message.get("usage"))
            case "content_block_start":
                self._end_thinking()
                self._blocks[chunk["index"]] = block = dict(chunk["content_block"])
                self._thinks_at = chunk["index"] if block["type"] in _THINKING else None
                self._grow(chunk["index"], "text", chunk["content_block"].get("text") or "")
            case "content_block_delta":
                delta = chunk["delta"]
                for name in _GROWING:
                    self._grow(chunk["index"], name, delta.get(name) or "")
            case "message_delta":
                self._message |= {name: value for name, value in chunk["delta"].items() if value is not None}
                self._count(chunk.get("usage"))
            case "content_block_stop" | "message_stop":
                self._end_thinking()
                self.done = chunk["type"] == "message_stop"

    def body(self) -> dict[str, Any] | None:
        if not self.done or "content" not in self._message:
            return None
        indexes = dict.fromkeys([*self._blocks, *(index for index, _ in self._grown)])
        return {**self._message, "content": [*map(self._whole, indexes)], "usage": self._usage}

    def _whole(self, index: int) -> dict[str, Any]:
        grown = {ours: "".join(self._grown.get((index, name), ())) for name, ours in _GROWING.items()}
        return {**self._blocks[index], **{name: text for name, text in grown.items() if text}}

    def _end_thinking(self) -> None:
        if self._thinks_at is not None:
            self._think(block=self._whole(self._thinks_at))
            self._thinks_at = None

    def _grow(self, index: int, name: str, text: str) -> None:
        if not text:
            return
        self._take(text)
        self._grown.setdefault((index, name), []).append(text)
        if name == "text":
            self._on_delta(text)
        elif name == "thinking":
            self._think(text)

    def _count(self, usage: Any) -> None:
        if isinstance(usage, Mapping) and isinstance(self._usage, Mapping):
            self._usage = {
                **self._usage,
                **{name: value for name, value in usage.items() if value is not None},
            }
        elif usage is not None:  # its reader names it
            self._usage = usage


class AnthropicMessages(Wire):
    """The wire. `extra` are fields of every request that ours are stronger than.

    `cached` are places of a prompt up to which the provider shall cache it, as LiteLLM's
    `cache_control_injection_points` says them; None has it cache a conversation that goes on: its system
    prompt and tools, and its last messages. Answers in a shape are given by a tool that must be called.
    """

    pieces = _BlockPieces

    def __init__(
        self, *, extra: Mapping[str, Any] | None = None, cached: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        self._extra = dict(extra or {})
        self._cached = cached
        self._without: set[str] = set()
        self._native_without: set[str] = set()
        self._adaptive = False

    def headers(self, api_key: str | None) -> dict[str, str]:
        """The key in Anthropic's own header."""
        key = header_key(api_key)
        return {"anthropic-version": _VERSION, **({"x-api-key": key} if key else {})}

    def request_headers(self, request: ModelRequest) -> dict[str, str]:
        """The betas that a client of this API asks for."""
        betas = _native_fields(request).get("betas")
        return {_BETAS: betas} if isinstance(betas, str) else {}

    def body(self, request: ModelRequest, *, stream: bool) -> dict[str, Any]:
        """Write a request. Raises Unsupported for a part of it that the API does not have."""
        if request.inputs:
            raise Unsupported("Anthropic embeds no texts", remedy="Name a model of embeddings")
        conversation = written(request, _Conversation, self._cached is not None)
        system, messages = [*conversation.system], conversation.bodies()
        tools = [_tool(tool) for tool in request.tools]
        body: dict[str, Any] = {
            **self._extra,
            **self._request_params(request),
            "model": request.model,
            "max_tokens": request.max_tokens or _MAX_TOKENS,
            "metadata": {"user_id": request.user},
            "messages": messages,
        }
        if request.temperature is not None and "thinking" not in body:
            body["temperature"] = request.temperature
        if request.response_schema is not None:
            schema = request.response_schema
            tools.append(_tool(ToolSpec(name=_ANSWER, description="Give the answer.", parameters=schema)))
        choice = _tool_choice(request)
        parts = {"tool_choice": choice, "system": system, "tools": tools, "stream": stream}
        body |= {name: value for name, value in parts.items() if value}
        if self._cached is not None:
            self._mark(system, messages, tools)
        elif conversation.is_marked:
            pass  # the client knows where its prompt repeats, and the API takes four marks
        elif request.tools or conversation.goes_on:
            _mark_conversation(system, messages, tools)
        for name in self._without:
            body.pop(name, None)
        return body

    def read(self, body: Any, request: ModelRequest, source: str, extra: Mapping[str, Any]) -> ModelReply:
        """Read a message. Raises ContentRefused, and ModelUnavailable for anything else."""
        with reading(source):
            reason = body["stop_reason"]
            blocks = body.get("content") or () if reason == "refusal" else body["content"]
            texts = [block["text"] for block in blocks if block["type"] == "text"]
            calls = [_call(block) for block in blocks if block["type"] == "tool_use"]
            characters = sum(map(len, texts)) + sum(len(call.arguments) for call in calls)
            counted = read_usage(body.get("usage"), _USAGE, request, characters)
            if reason == "refusal":
                raise held_back(source, request.model, body.get("model"), counted, extra)
            answers = [call for call in calls if call.name == _ANSWER]
            others = tuple(call for call in calls if call.name != _ANSWER)
            content = answers[0].arguments if answers and not others else "".join(texts)
            finish = (
                "stop" if answers and not others else _REASONS.get(reason, "stop") if reason else UNSTATED
            )
            extra = with_problem(extra, counted, wrote=bool(content or calls))
            fields = {
                "content": content,
                "tool_calls": others,
                "thinking": tuple(block for block in blocks if block["type"] in _THINKING),
                "model": body.get("model") or request.model,
                "usage": counted.usage,
                "finish_reason": finish,
            }
            return ModelReply.model_validate(fields).model_copy(update=extra)

    def adapts_to(self, words: str) -> bool:
        """Leave out the temperature where the model does not take one; let it think as it likes."""
        if "budget_tokens" in words or "thinking.type" in words:
            self._adaptive, before = True, self._adaptive
            return not before
        if not any(sign in words for sign in _REFUSALS):
            return False
        if "temperature" in words and "temperature" not in self._without:
            self._without.add("temperature")
            return True
        names = [name for name, sign in _OPTIONAL.items() if sign in words]
        refused_names = [name for name in names if name not in self._native_without]
        self._native_without.update(refused_names[:1])
        return bool(refused_names)

    def _mark(self, system: list[Any], messages: list[Any], tools: list[Any]) -> None:
        for point in self._cached or ():
            control = point.get("control") or _EPHEMERAL
            if point.get("location") == "tool_config":
                _mark_last(tools, control)
            elif point.get("role") == "system":
                _mark_last(system, control)
            else:
                role, index = point.get("role"), point.get("index")
                fitting = [n for n, message in enumerate(messages) if role in (None, message["role"])]
                place = -1 if index is None else int(index)
                if -len(fitting) <= place < len(fitting):
                    _mark_message(messages, fitting[place], control)

    def _request_params(self, request: ModelRequest) -> dict[str, Any]:
        asked_params = request.params
        if refused := next((name for name in _CANNOT if asked_params.get(name)), None):
            raise Unsupported(f"Anthropic has no parameter {refused}", remedy="Leave it out", field=refused)
        left_out = (*_LEFT_OUT, *_CANNOT, ANTHROPIC_PARAMS)
        params = {name: value for name, value in asked_params.items() if name not in left_out}
        if params.get("service_tier") not in (None, "auto", "standard_only"):
            del params["service_tier"]
        if stop := asked_params.get("stop"):
            params["stop_sequences"] = [stop] if isinstance(stop, str) else stop
        forced = request.response_schema is not None or request.tool_choice == "required"
        if native := _native_fields(request):
            return {**params, **self._native(native, forced=forced)}
        if "reasoning_effort" not in asked_params or forced or "thinking" in params:
            return params  # a model that must call a tool cannot think first
        effort = str(asked_params["reasoning_effort"])
        limit = (request.max_tokens or _MAX_TOKENS) * 3 // 4  # thinking counts to max_tokens
        budget = min(_EFFORTS.get(effort, 0), limit)
        if self._adaptive and effort in _EFFORTS:
            effort = "low" if effort == "minimal" else effort
            return {**params, "thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
        if budget >= _MIN_THINKING:
            params["thinking"] = {"type": "enabled", "budget_tokens": budget}
        return params

    def _native(self, fields: Mapping[str, Any], *, forced: bool) -> dict[str, Any]:
        """The fields as a client wrote them, but those that this call or its model cannot have."""
        without = {"betas", *self._native_without}
        if forced:  # a model that must call a tool cannot think first
            without |= {"thinking", "context_management"}
        native = {name: value for name, value in fields.items() if name not in without}
        thinking = native.get("thinking")
        if self._adaptive and isinstance(thinking, Mapping) and thinking.get("type") == "enabled":
            native["thinking"] = {"type": "adaptive"}
        return native


def _native_fields(request: ModelRequest) -> Mapping[str, Any]:
    """The fields that a client of this API has set in its own words."""
    fields = request.params.get(ANTHROPIC_PARAMS)
    return fields if isinstance(fields, Mapping) else {}


def _system_blocks(message: ChatMessage) -> list[dict[str, Any]]:
    """The blocks of a system message; the marks of a cache stay where a client has put them."""
    if not message.text:
        return []
    if any("cache_control" in part for part in message.parts):
        words = [_text(message.content)] if message.content else []
        return [*words, *map(_part, message.parts)]
    return [_text(message.text)]


def _tool_choice(request: ModelRequest) -> dict[str, Any]:
    """Whether tools must, may or must not be called, and several at once; {} where nothing is to be said."""
    choice: dict[str, Any] = {}
    if request.response_schema is not None:
        choice = {"type": "any"} if request.tools else {"type": "tool", "name": _ANSWER}
    elif request.tools and request.tool_choice != "auto":
        choice = {"type": {"required": "any", "none": "none"}[request.tool_choice]}
    if request.tools and request.params.get("parallel_tool_calls") is False and choice.get("type") != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    return choice


def _mark_conversation(system: list[Any], messages: list[Any], tools: list[Any]) -> None:
    """Have a conversation cached: what stands before its messages, and those up to its two last questions."""
    _mark_last(system or tools, _EPHEMERAL)  # the API takes four marks
    for number in range(max(0, len(messages) - 4), len(messages)):  # users and assistants take turns
        if messages[number]["role"] == "user":
            _mark_message(messages, number, _EPHEMERAL)


def _mark_last(blocks: list[Any], control: Any) -> None:
    """Mark the last block in its list alone: the next call has it too, without this mark."""
    if blocks:
        blocks[-1] = {**blocks[-1], "cache_control": control}


def _mark_message(messages: list[Any], number: int, control: Any) -> None:
    content = [*messages[number]["content"]]
    _mark_last(content, control)
    messages[number] = {**messages[number], "content": content}


class _Conversation:
    """A conversation: neighbours of one role are one message, system messages stand apart.

    An `is_unmarked` one has no marks of a client: the API takes four, and those of the deployment count.
    """

    def __init__(self, is_unmarked: bool) -> None:
        self.system: list[dict[str, Any]] = []
        self.is_marked = self.goes_on = False
        self._is_unmarked = is_unmarked
        self._messages: list[dict[str, Any]] = []

    def add(self, message: ChatMessage) -> None:
        """Write the next message. Raises Unsupported for a part that the API does not have."""
        if message.parts and not self.is_marked:
            self.is_marked = any("cache_control" in part for part in message.parts)
        if message.role == "system":
            self.system += self._unmarked(_system_blocks(message))
            return
        role = "user"
        if message.role == "assistant":
            role, self.goes_on = "assistant", True
            if not self._messages:
                self._messages.append({"role": "user", "content": [_text("")]})
        blocks = self._unmarked(_blocks(message))
        if self._messages and self._messages[-1]["role"] == role:
            self._messages[-1]["content"] += blocks
        else:
            self._messages.append({"role": role, "content": blocks})

    def bodies(self) -> list[dict[str, Any]]:
        """The messages so far, in a list of the caller's own."""
        return [*self._messages] or [{"role": "user", "content": [_text("")]}]

    def _unmarked(self, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for block in blocks if self._is_unmarked else ():
            block.pop("cache_control", None)
        return blocks


def _blocks(message: ChatMessage) -> list[dict[str, Any]]:
    words = [_text(message.content)] if message.content.strip() else []
    if message.role == "tool":
        content: Any = message.content
        mark: dict[str, Any] = {}
        if message.parts:
            content = [*words, *map(_part, message.parts)]
            mark = {"cache_control": last} if (last := content[-1].pop("cache_control", None)) else {}
        result = {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": content}
        return [{**result, **mark}]
    blocks = [*(dict(block) for block in message.thinking), *words, *map(_part, message.parts)]
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_object(call)}
        for call in message.tool_calls
    ]
    return blocks or [_text("")]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text if text.strip() else _NO_TEXT}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a message with the mark of a cache that it has. Raises what `_block` raises."""
    mark = {"cache_control": part["cache_control"]} if part.get("cache_control") else {}
    return {**_block(part), **mark}


def _block(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a message, which is written as OpenAI does. Raises Unsupported for one of another kind."""
    match part:
        case {"type": "text", "text": text}:
            return _text(text)
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            return {"type": "image", "source": _source(url)}
        case {"type": "file", "file": {"file_data": str(data), **about}}:
            source = _source(data)
            if source["type"] == "base64" and source["media_type"].startswith("text/"):
                text = base64.b64decode(source["data"]).decode(errors="replace")
                source = {"type": "text", "media_type": "text/plain", "data": text}
            title = {"title": about["filename"]} if about.get("filename") else {}
            return {"type": "document", "source": source, **title}
        case {"type": "file", "file": {"file_id": str(file_id)}}:
            is_url = file_id.startswith(("http://", "https://"))
            source = {"type": "url", "url": file_id} if is_url else {"type": "file", "file_id": file_id}
            return {"type": "document", "source": source}
        case {"type": "image" | "document"}:
            return dict(part)
        case _:
            raise Unsupported(f"Anthropic takes no {part.get('type')!r} in a message", field="messages")


def _source(url: str) -> dict[str, Any]:
    """The source of a picture or a file: a `data:` URL itself, or an address."""
    head, _, data = url.partition(",")
    if not head.startswith("data:"):
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": head[5:].partition(";")[0], "data": data}


def _tool(spec: ToolSpec) -> dict[str, Any]:
    strict = {} if spec.strict is None else {"strict": spec.strict}
    return {"name": spec.name, "description": spec.description, "input_schema": spec.parameters, **strict}


def _call(block: Mapping[str, Any]) -> ToolCall:
    arguments = block.get("input_text") or to_json(block.get("input") or {}).decode()
    return ToolCall.model_validate({"id": block["id"], "name": block["name"], "arguments": arguments})

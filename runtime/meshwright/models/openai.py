"""OpenAI's chat completions, which most model servers speak."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from mimetypes import guess_extension
from typing import Any

from meshwright.core.files import File
from meshwright.core.money import ZERO, reported_cost
from meshwright.models.arguments import arguments_text
from meshwright.models.errors import ContentRefused
from meshwright.models.http import Pieces, Wire, header_key, not_a_completion, reading
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
from meshwright.models.thinking import ThinkingChunks, read_thinking
from meshwright.models.usage import UsageFields, UsageReading, read_usage
from meshwright.models.written import written

_logger = logging.getLogger("meshwright.models")
_REFUSED = "content_filter"
_COST_HEADER = "x-litellm-response-cost"  # these four: docs.litellm.ai/docs/proxy/response_headers
_CACHE_HEADER = "x-litellm-cache-key"
_PROXY_HEADERS = "x-litellm-"
_DEPLOYMENT_HEADER = "x-litellm-model-id"
_TRIES_HEADERS = ("x-litellm-attempted-fallbacks", "x-litellm-attempted-retries")
_COUNT = re.compile(r"[0-9]{1,6}")  # of tries: what is longer is no count
_NOT_TAKEN = re.compile(r"unsupported|not support|deprecated|unknown|unrecognized|not permitted|not allowed")
_TOOL_FILES = "Files of the result of tool call"
_SOUND = {"mp3": "audio/mpeg", "pcm16": "audio/L16"}
_GROWING = ("data", "transcript")  # of sound that is streamed
_FRAGMENTS = "\n"  # between pieces of its data; each piece is base64 by itself
_OPTIONAL = (
    *("temperature", "user", "stream_options", "reasoning_effort", "cache_control"),
    *("extra_content", "reasoning_content", "reasoning_details", "reasoning"),
)
_NOT_STRICT = frozenset(
    {"allOf", "oneOf", "not", "if", "then", "else", "default", "dependentRequired", "dependentSchemas"}
    | {"patternProperties", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties"}
    | {"prefixItems", "contains", "uniqueItems", "unevaluatedItems"}
)
"""Keywords that no schema may have in OpenAI's strict mode."""
_USAGE: UsageFields = {
    "prompt_tokens": (("prompt_tokens",),),
    "completion_tokens": (("completion_tokens",),),
    "cached_tokens": (("prompt_tokens_details", "cached_tokens"),),
    "reasoning_tokens": (("completion_tokens_details", "reasoning_tokens"),),
}


WANTED_BACK = ("reasoning_content", "reasoning", "reasoning_details")
"""The fields of a message with calls of tools that some provider refuses to go on without."""
_OF_CALL = ("id", "type", "index", "function")
_MAX_EXTRA_CHARS = 400_000  # of the fields of one message, or one call


@dataclass
class _OpenCall:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


class ChunkPieces(Pieces):
    """Puts the chunks of a streamed completion together into the body of a whole one.

    Text goes to `on_delta` as it comes; tool calls may come interleaved, and are distinguished by their
    index, or by their id where a server gives all of them the same index. Raises TooMuch over `max_chars`.
    """

    def __init__(self, on_delta: OnDelta, max_chars: int) -> None:
        super().__init__(on_delta, max_chars)
        self._finish_reason: str | None = None
        self._model: str | None = None
        self._usage: Any = None
        self._text: list[str] = []
        self._refusal = ""
        self._thinking = ThinkingChunks(self._think)
        self._calls: list[_OpenCall] = []
        self._open: dict[Any, _OpenCall] = {}
        self._images: list[Any] = []
        self._audio: dict[str, Any] = {}
        self._extra: dict[str, Any] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take the next chunk."""
        self._model = self._model or chunk.get("model")
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            self._delta(choice.get("delta") or {})

    def body(self) -> dict[str, Any] | None:
        """The whole completion; None where neither its end nor its reason came."""
        if not self.done and self._finish_reason is None:
            return None
        calls = [
            {
                "id": call.id,
                "function": {"name": call.name, "arguments": "".join(call.arguments)},
                **call.extra,
            }
            for call in self._calls
        ]
        message = {"content": "".join(self._text), "tool_calls": calls, "refusal": self._refusal}
        message |= {"images": self._images, "audio": self._audio, "thinking_blocks": self._thinking.end()}
        message |= self._extra
        choices = [{"message": message, "finish_reason": self._finish_reason}]
        return {"model": self._model, "choices": choices, "usage": self._usage}

    def _delta(self, delta: Mapping[str, Any]) -> None:
        others = delta.get("provider_specific_fields") or {}  # where LiteLLM puts what it does not know
        self._refusal += delta.get("refusal") or others.get("refusal") or ""
        self._take(self._thinking.add(delta))
        for name in WANTED_BACK:
            if value := delta.get(name):
                self._extra[name] = _grown(self._extra.get(name), value)
        if text := _read_content(delta.get("content")):
            self._thinking.end()
            self._take(text)
            self._text.append(text)
            self._on_delta(text)
        for image in _message_images(delta):
            self._take(_image_url(image))
            self._images.append(image)
        for name, value in (delta.get("audio") or {}).items():
            before = self._audio.get(name) if name in _GROWING else None
            self._take(value if isinstance(value, str) else "")
            self._audio[name] = f"{before}{_FRAGMENTS if name == 'data' else ''}{value}" if before else value
        for fragment in delta.get("tool_calls") or ():
            self._thinking.end()
            self._fragment(fragment)

    def _fragment(self, fragment: Mapping[str, Any]) -> None:
        index, call_id = fragment.get("index"), fragment.get("id")
        call = self._open.get(index)
        if call is None or (call_id and call.id and call_id != call.id):
            call = self._open[index] = _OpenCall()
            self._calls.append(call)
        function = fragment.get("function") or {}
        call.id = call.id or call_id or ""
        call.name = call.name or function.get("name") or ""
        arguments = function.get("arguments") or ""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        self._take(text)
        call.arguments.append(text)
        call.extra |= {name: value for name, value in fragment.items() if name not in _OF_CALL}


class ChatCompletions(Wire):
    """The wire. `extra` are fields of every request that ours are stronger than.

    `reasons` says that the model is one of OpenAI's that reason: those take `max_completion_tokens`, and no
    temperature. Of other models a refusal teaches it. `model` answers every call, whatever its group.
    """

    pieces = ChunkPieces

    def __init__(
        self, *, extra: Mapping[str, Any] | None = None, reasons: bool = False, model: str | None = None
    ) -> None:
        self._extra = dict(extra or {})
        self._model = model
        self._without = frozenset({"temperature"}) if reasons else frozenset[str]()
        self._limit = "max_completion_tokens" if reasons else "max_tokens"

    def headers(self, api_key: str | None) -> dict[str, str]:
        """The key as a bearer token, if there is one."""
        key = header_key(api_key)
        return {"authorization": f"Bearer {key}"} if key else {}

    def called_model(self, request: ModelRequest) -> str:
        """The model that answers every call, or the group of the request."""
        return self._model or request.model

    def headers_say(self, headers: Mapping[str, str], *, streamed: bool) -> dict[str, Any]:
        """The deployment of a server with one model: the model, whatever name the server gives it."""
        return {} if self._model is None else {"deployment": self._model}

    def body(self, request: ModelRequest, *, stream: bool) -> dict[str, Any]:
        """Write a request. Servers tell the tokens of a stream only where they are asked."""
        model = self.called_model(request)
        if request.inputs:
            return {**self._extra, **request.params, "model": model, "input": request.inputs}
        body: dict[str, Any] = {
            **self._extra,
            **{name: value for name, value in request.params.items() if name != ANTHROPIC_PARAMS},
            "model": model,
            "messages": written(request, _ChatMessages, model, self._without).bodies(),
            "user": request.user,
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.max_tokens is not None:
            body[self._limit] = request.max_tokens
        if request.tools:
            body["tools"] = [{"type": "function", "function": _tool_body(tool)} for tool in request.tools]
            if request.tool_choice != "auto":  # servers do that by default, and some refuse the field
                body["tool_choice"] = request.tool_choice
        if request.response_schema is not None:
            body["response_format"] = request.response_format or _response_format(request.response_schema)
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        for name in self._without:
            body.pop(name, None)
        return body

    def read(self, body: Any, request: ModelRequest, source: str, extra: Mapping[str, Any]) -> ModelReply:
        """Read a completion, or embeddings; arguments of tool calls are passed on as they came.

        Raises ContentRefused for an answer that was held back, and ModelUnavailable, naming `source`, for
        anything that is neither.
        """
        if request.inputs:
            return read_embeddings(body, request, source=source, **extra)
        audio, model = request.params.get("audio"), request.model
        sound = audio.get("format") if isinstance(audio, Mapping) else None  # servers seldom repeat it
        with reading(source):
            choice = body["choices"][0]
            message = choice["message"]
            reason = choice.get("finish_reason") or UNSTATED  # some servers never say; others broke off
            usage, extra = body.get("usage"), dict(extra)
            if isinstance(usage, Mapping) and "cost_usd" not in extra:  # a LiteLLM proxy does, for a stream
                extra |= _reported_cost("usage.cost", usage.get("cost"))
            content = _read_content(message.get("content")) or (message.get("audio") or {}).get("transcript")
            calls = tuple(_read_call(n, call) for n, call in enumerate(message.get("tool_calls") or ()))
            characters = len(content or "") + sum(len(call.arguments) for call in calls)
            counted = read_usage(usage, _USAGE, request, characters)
            if reason == _REFUSED or message.get("refusal"):
                raise held_back(source, model, body.get("model"), counted, extra)
            files = tuple(_read_files(message, str(sound or "wav")))
            extra = with_problem(extra, counted, wrote=bool(content or calls or files))
            answer: dict[str, Any] = {"content": content or "", "tool_calls": calls}
            answer["model"] = body.get("model") or model
            answer |= {"thinking": read_thinking(message), "usage": counted.usage, "finish_reason": reason}
            if calls and (extra_fields := _bounded({n: message[n] for n in WANTED_BACK if message.get(n)})):
                answer["extra"] = extra_fields
            if calls and (answer.get("extra") or any(call.extra for call in calls)):
                answer["answered_by"] = self.called_model(request)
            reply = ModelReply.model_validate(answer)
            return reply.model_copy(update={**extra, "files": files} if files else extra)

    def adapts_to(self, words: str) -> bool:
        """Leave out a field that the model does not take, or rename the limit of tokens."""
        if not _NOT_TAKEN.search(words):
            return False
        if self._limit == "max_tokens" and "max_tokens" in words:
            self._limit = "max_completion_tokens"
            return True
        refused_names = [name for name in _OPTIONAL if name in words and name not in self._without]
        self._without |= {*refused_names[:1]}
        return bool(refused_names)


class ProxyCompletions(ChatCompletions):
    """The wire of a LiteLLM proxy: it routes by `tags`, and has to keep its cache apart for each tenant."""

    _has_warned = False

    def body(self, request: ModelRequest, *, stream: bool) -> dict[str, Any]:
        """Write a request with tags, metadata and what its cache may do."""
        tags = list(request.tags)
        cache: dict[str, Any] = {"no-cache": True, "no-store": True}
        if request.cache:  # its key knows neither tenant nor tags
            cache = {"namespace": ":".join([request.context.tenant_id, *sorted(request.tags)])}
        own = {"tags": tags, "metadata": {**request.context.metadata(), "tags": tags}, "cache": cache}
        return {**super().body(request, stream=stream), **own}

    def headers_say(self, headers: Mapping[str, str], *, streamed: bool) -> dict[str, Any]:
        """Read the cost of a call, and its deployment.

        An answer from its cache cost nothing, though it still says the full price. The header of a stream is
        written before its cost is known.
        """
        cached = _CACHE_HEADER in headers
        header = None if streamed else headers.get(_COST_HEADER)
        cost = _reported_cost(_COST_HEADER, header)
        tries = [headers.get(name, "") for name in _TRIES_HEADERS]
        fields: dict[str, Any] = {
            "deployment": headers.get(_DEPLOYMENT_HEADER) or None,
            "attempts": 1 + sum(int(count) for count in tries if _COUNT.fullmatch(count)),
            "cache_hit": cached,
        }
        if cached:
            return {**fields, "cost_usd": ZERO, "cost_source": "reported", "saved_usd": cost.get("cost_usd")}
        return {**fields, **cost}

    def note(self, reply: ModelReply, headers: Mapping[str, str], source: str, *, streamed: bool) -> None:
        """Say once that the proxy states no cost of streams, as it does before 1.102 unless it is told to."""
        is_proxy = any(name.lower().startswith(_PROXY_HEADERS) for name in headers)
        if not is_proxy or not streamed or reply.cost_usd is not None or self._has_warned:
            return
        self._has_warned = True
        _logger.warning(
            "The LiteLLM proxy at %s states no cost of streamed calls: they count by the prices known here, "
            "or as unknown. Set include_cost_in_streaming_usage: true under its litellm_settings",
            source,
        )


def read_embeddings(body: Any, request: ModelRequest, *, source: str, **extra: Any) -> ModelReply:
    """Read the vectors of a request's inputs. Raises ModelUnavailable for anything else."""
    with reading(source):
        vectors = [row["embedding"] for row in sorted(body["data"], key=lambda row: row["index"])]
        if len(vectors) != len(request.inputs):
            raise not_a_completion(source)
        counted = read_usage(body.get("usage"), _USAGE, request)
        extra = with_problem(extra, counted, wrote=False)
        answer = {"model": body.get("model") or request.model, "usage": counted.usage, "embeddings": vectors}
        return ModelReply.model_validate(answer).model_copy(update=extra)


def held_back(
    source: str, model: str, answered: str | None, counted: UsageReading, extra: Mapping[str, Any]
) -> ContentRefused:
    """The error for an answer that the provider's policy cut off; `extra` are fields of its reply."""
    error = ContentRefused(f"{source} held back the answer of model {model!r}: its policy forbids it")
    fields = with_problem(extra, counted, wrote=False)
    reply = ModelReply(model=answered or model, usage=counted.usage, finish_reason=_REFUSED)
    error.lost = (reply.model_copy(update=fields),)
    return error


def with_problem(reply_fields: Mapping[str, Any], counted: UsageReading, *, wrote: bool) -> dict[str, Any]:
    """The fields of a reply with how its tokens are known: estimated if a server has not counted them all.

    No prompt has no tokens, and no answer that says something.
    """
    usage, problem = counted.usage, reply_fields.get("usage_problem") or counted.problem
    is_counted = usage.prompt_tokens > 0 and (usage.completion_tokens > 0 or not wrote)
    fields = dict(reply_fields)
    if problem or not is_counted:
        fields.setdefault("cost_source", "estimated")
    return {**fields, "usage_problem": problem} if problem else fields


def _is_strict(schema: Any) -> bool:
    """Whether OpenAI takes a schema in strict mode: schemas of shapes, but for free dictionaries and sets."""
    if not isinstance(schema, Mapping) or schema.keys() & _NOT_STRICT:
        return False
    fields = schema.get("properties") or {}
    if schema.get("type") == "object" or fields:
        closed = schema.get("additionalProperties") is False
        if not closed or set(schema.get("required") or ()) != set(fields):
            return False
    parts = [*fields.values(), *(schema.get("$defs") or {}).values(), *(schema.get("anyOf") or ())]
    return all(map(_is_strict, [*parts, schema["items"]] if "items" in schema else parts))


def _response_format(schema: dict[str, Any]) -> dict[str, Any]:
    schema_format: dict[str, Any] = {"name": "answer", "schema": schema}
    if schema.get("type") == "object" and _is_strict(schema):
        schema_format["strict"] = True
    return {"type": "json_schema", "json_schema": schema_format}


class _ChatMessages:
    """Messages for one model. Those of tools hold text alone: their pictures and files are the user's.

    They come behind the results that came together.
    """

    def __init__(self, model: str, without: frozenset[str]) -> None:
        self._model = model
        self._without = without
        self._bodies: list[dict[str, Any]] = []
        self._files: list[Mapping[str, Any]] = []

    def add(self, message: ChatMessage) -> None:
        """Write the next message."""
        if self._files and message.role != "tool":
            self._bodies += self._files_bodies()
            self._files = []
        if message.parts and message.role == "tool" and any(p.get("type") != "text" for p in message.parts):
            self._files.append({"type": "text", "text": f"{_TOOL_FILES} {message.tool_call_id}:"})
            self._files += [part for part in message.parts if part.get("type") != "text"]
            texts = tuple(part for part in message.parts if part.get("type") == "text")
            message = message.model_copy(update={"parts": texts})
        body = _message_body(message)
        if message.tool_calls and message.answered_by in ("", self._model):
            if message.extra:
                body |= self._wanted_back(message.extra)
            for call, fields in zip(message.tool_calls, body["tool_calls"], strict=True):
                if call.extra:
                    fields |= self._wanted_back(call.extra)
        if message.parts:
            body["content"] = self._parts(body["content"])
        self._bodies.append(body)

    def bodies(self) -> list[dict[str, Any]]:
        """The messages so far, in a list of the caller's own."""
        return [*self._bodies, *self._files_bodies()] if self._files else [*self._bodies]

    def _files_bodies(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": self._parts(self._files)}]

    def _parts(self, parts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return [_unmarked(part) for part in parts] if "cache_control" in self._without else [*parts]

    def _wanted_back(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in extra.items() if name not in self._without}


def _message_body(message: ChatMessage) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.parts:
        words = [{"type": "text", "text": message.content}] if message.content else []
        body["content"] = [*words, *message.parts]
    if message.tool_calls:
        body["content"] = body["content"] or None  # an assistant that only calls tools has none
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": arguments_text(call)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    return body


def _tool_body(tool: ToolSpec) -> dict[str, Any]:
    strict = {} if tool.strict is None else {"strict": tool.strict}
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters, **strict}


def _unmarked(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "cache_control"}


def _read_content(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or "" for part in content)


def _message_images(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The pictures of a message, or of a piece of one: in a list of their own, or among its parts."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return [*(message.get("images") or ()), *(part for part in parts if part.get("type") == "image_url")]


def _image_url(image: Mapping[str, Any]) -> str:
    where = image["image_url"]
    url = where if isinstance(where, str) else where["url"]
    if not url.startswith(("data:", "https:", "http:")):  # rather than a file of the mesh
        raise ValueError
    return url


def _read_files(message: Mapping[str, Any], sound: str) -> Iterator[File]:
    for number, image in enumerate(_message_images(message), start=1):
        file = File(name=f"image-{number}", media_type="", url=_image_url(image))
        media_type = file.media_type if file.media_type.startswith("image/") else "image/png"
        name = f"{file.name}{guess_extension(media_type) or ''}"
        yield file.model_copy(update={"name": name, "media_type": media_type})
    audio = message.get("audio") or {}
    if audio.get("data"):
        kind = str(audio.get("format") or sound)
        data = b"".join(base64.b64decode(piece, validate=True) for piece in audio["data"].split(_FRAGMENTS))
        yield File(name=f"audio-1.{kind}", media_type=_SOUND.get(kind, f"audio/{kind}"), data=data)


def _read_call(number: int, call: Mapping[str, Any]) -> ToolCall:
    """Read one tool call; arguments that came as an object become the JSON text that was meant."""
    function = call["function"]
    arguments = function.get("arguments") or "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    fields = {"id": call.get("id") or f"call_{number}", "name": function["name"], "arguments": text}
    if extra := _bounded({name: value for name, value in call.items() if name not in _OF_CALL}):
        fields["extra"] = extra
    return ToolCall.model_validate(fields)


def _grown(before: Any, value: Any) -> Any:
    """A field of a message with its next piece of a stream: text grows, parts of a list by their index."""
    if before is None or isinstance(value, str) != isinstance(before, str):
        return value
    if isinstance(value, str):
        return before + value
    if not isinstance(value, list) or not isinstance(before, list):
        return value
    parts = list(before)
    for part in value:
        at = next((n for n, one in enumerate(parts) if _is_same_part(one, part)), None)
        if at is None:
            parts.append(part)
        else:
            texts = {name: _grown(parts[at].get(name), part[name]) for name in _TEXTS if name in part}
            parts[at] = {**parts[at], **part, **texts}
    return parts


_TEXTS = ("text", "summary", "data")  # of a part of `reasoning_details`


def _is_same_part(part: Any, other: Any) -> bool:
    if not isinstance(part, dict) or not isinstance(other, dict) or other.get("index") is None:
        return False
    return (part.get("index"), part.get("type")) == (other["index"], other.get("type"))


def _bounded(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields if they are not too large to be carried from call to call."""
    return fields if fields and len(json.dumps(fields)) <= _MAX_EXTRA_CHARS else {}


def _reported_cost(name: str, value: object) -> dict[str, Any]:
    """The cost that a proxy reports, as fields of a reply: none where it says nothing, or no amount."""
    if value is None:
        return {}
    cost = reported_cost(value)
    if cost is None:
        return {"usage_problem": f"The proxy reports a cost that cannot be: {name}"}
    return {"cost_usd": cost, "cost_source": "reported"}

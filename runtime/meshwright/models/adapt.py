"""Adapts requests to what a model can do: output modes for answers in a schema, and tools in the prompt.

A model sees plain requests. A request that it refuses, which costs nothing, is made in the next form, and
that is remembered for its group and tags. The outermost wrapper of a model: every form is a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from meshwright.core.encoding import encode, plain
from meshwright.core.ids import new_id
from meshwright.core.tracing import COST, PROMPT, TENANT, GenAI, NoTracing, Span, Tracing
from meshwright.models.errors import ModelRefused, Unsupported
from meshwright.models.port import (
    OUTPUT_MODES,
    ChatMessage,
    Model,
    ModelReply,
    ModelRequest,
    OnDelta,
    OutputMode,
    ToolCall,
    ToolSpec,
    Wrapper,
)
from meshwright.models.structure import repaired
from meshwright.models.written import written

ANSWER_TOOL = "final_answer"
_REJECTED = frozenset({400, 422})
"""Statuses of a request that is refused as such, whatever it is about it."""
_HOW_TO_CALL = """\
You can call tools. To call one or several, answer with one JSON object of this form, and nothing else:
{"tool_calls": [{"name": "<name of the tool>", "arguments": {<its arguments>}}]}
The results are in the next message. If you need no tool, answer in plain text.
These are the tools, each with the JSON schema of its arguments:
"""

_Key = tuple[str, tuple[str, ...]]


class _Form(NamedTuple):
    """How a request is made: in an output mode, None for text, and with its tools in the prompt or not."""

    mode: OutputMode | None
    prompted_tools: bool = False


class AdaptedModel(Wrapper):
    """A model that takes every request, as far as it can be put in another form.

    Of an answer in a schema the reply's content is the JSON, unchecked. A stream is passed on but for
    answers by a tool and for tools in the prompt, which may be calls. Each request has a span.
    """

    def __init__(self, model: Model, spans: CallSpans) -> None:
        super().__init__(model)
        self._spans = spans
        self._modes: dict[_Key, OutputMode] = {}
        self._without_tools: set[_Key] = set()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make the call, in the next form where one is refused. Raises ModelError."""
        key = request.model, request.tags
        first = None
        if request.response_schema is not None:
            first = _modes(request, self._modes.get(key, request.output_mode))[0]
        form = self._form(request, first, key)
        with self._spans.begin(request) as span:
            while True:
                streams = form.mode != "tool" and not (form.prompted_tools and request.tools)
                try:
                    reply = await self.model.complete(_adapted(request, form), on_delta if streams else None)
                except ModelRefused as refusal:
                    following = self._next(request, form, refusal, key)
                    if following is None:
                        raise
                    form = following
                else:
                    break
            if form.prompted_tools:
                self._without_tools.add(key)  # only after a reply: the refusal may have meant something else
            if form.mode is not None and form.mode != first:
                self._modes[key] = form.mode
            reply = _read(reply, form, request)
            self._spans.answered(span, request, reply)
            return reply

    def _form(self, request: ModelRequest, mode: OutputMode | None, key: _Key) -> _Form:
        return _Form(mode, key in self._without_tools and _can_prompt(request, mode))

    def _next(self, request: ModelRequest, form: _Form, refusal: ModelRefused, key: _Key) -> _Form | None:
        no_tools = isinstance(refusal, Unsupported) and refusal.what == "tools"
        if no_tools and not form.prompted_tools and _can_prompt(request, form.mode):
            return _Form(form.mode, prompted_tools=True)
        # Another mode does not help where the context is too long, or the model is not found.
        of_the_request = type(refusal) is ModelRefused and refusal.answered in _REJECTED
        if form.mode is None or not (isinstance(refusal, Unsupported) or of_the_request):
            return None
        others = [mode for mode in _modes(request, form.mode)[1:] if not (no_tools and mode == "tool")]
        return self._form(request, others[0], key) if others else None


def _modes(request: ModelRequest, first: OutputMode) -> list[OutputMode]:
    """The modes from the first on; not by a tool where the request has one of that name itself."""
    is_taken = any(tool.name == ANSWER_TOOL for tool in request.tools)
    modes = OUTPUT_MODES[OUTPUT_MODES.index(first) :]
    return [mode for mode in modes if not (is_taken and mode == "tool")]


def _can_prompt(request: ModelRequest, mode: OutputMode | None) -> bool:
    """Whether a request has tools or earlier calls, so that a text answer can be a call as well."""
    has_calls = any(message.role == "tool" or message.tool_calls for message in request.messages)
    if not (request.tools or has_calls) or mode == "tool" or request.tool_choice != "auto":
        return False
    return mode != "native" or not request.tools


def _adapted(request: ModelRequest, form: _Form) -> ModelRequest:
    schema, changes = request.response_schema, dict[str, Any]()
    if schema is not None and form.mode == "tool":
        answer = ToolSpec(name=ANSWER_TOOL, description="Give the answer.", parameters=schema)
        changes = {"tools": (*request.tools, answer), "tool_choice": "required", "response_schema": None}
        changes["response_format"] = None
    elif schema is not None and form.mode == "prompted":
        unless = "Unless you call a tool, answer" if request.tools else "Answer"
        words = (
            f"{unless} with one JSON object, and nothing else, that fits this JSON schema:\n{_json(schema)}"
        )
        changes = {
            "messages": written(request, _InstructedMessages, words).messages(),
            "response_schema": None,
        }
        changes["response_format"] = None
    if changes:
        request = request.model_copy(update=changes)
    if not form.prompted_tools:
        return request
    tools = request.tools
    request = request.model_copy(update={"messages": written(request, _TextMessages).messages(), "tools": ()})
    if not tools:
        return request
    words = _HOW_TO_CALL + "\n".join(map(_json, tools))
    return request.model_copy(update={"messages": written(request, _InstructedMessages, words).messages()})


def _read(reply: ModelReply, form: _Form, request: ModelRequest) -> ModelReply:
    """The reply as if the request had been made as it was.

    An answer beside calls of other tools is dropped: the model has not seen what comes of them.
    """
    if form.prompted_tools:
        reply = _with_calls(reply, request.context.step)
    answers = [call for call in reply.tool_calls if call.name == ANSWER_TOOL] if form.mode == "tool" else []
    if not answers:
        return reply
    others = tuple(call for call in reply.tool_calls if call not in answers)
    content = reply.content if others else answers[0].arguments
    return reply.model_copy(update={"content": content, "tool_calls": others})


# Tools in the prompt


class _WrittenCall(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class _WrittenCalls(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    tool_calls: tuple[_WrittenCall, ...] = Field(min_length=1)


class _TextMessages:
    """Messages without calls: the assistant writes them as it is to, and the user gives the results."""

    def __init__(self) -> None:
        self._messages: list[ChatMessage] = []
        self._names: dict[str | None, str] = {}
        self._results: list[ChatMessage] = []
        """The results that came last, one after another."""
        self._joined = 0
        """The results among them that the last message has."""

    def add(self, message: ChatMessage) -> None:
        """Add the next message."""
        if message.role == "tool":
            self._results.append(message)
            return
        self._join()
        self._results = list[ChatMessage]()
        self._joined = 0
        if message.tool_calls:
            self._names |= {call.id: call.name for call in message.tool_calls}
            calls = [{"name": call.name, "arguments": _parse_arguments(call)} for call in message.tool_calls]
            lines = [*filter(None, [message.text]), _json({"tool_calls": calls})]
            message = ChatMessage(role=message.role, content="\n".join(lines))
        self._messages.append(message)

    def messages(self) -> tuple[ChatMessage, ...]:
        """The messages so far; each stays the same object while others follow."""
        self._join()
        return tuple(self._messages)

    def _join(self) -> None:
        if len(self._results) == self._joined:
            return
        if self._joined:
            del self._messages[-1]
        texts = [
            f"Result of {self._names.get(result.tool_call_id, 'a tool')}:\n{result.content}"
            for result in self._results
        ]
        parts = tuple(part for result in self._results for part in result.parts)
        self._messages.append(ChatMessage(role="user", content="\n\n".join(texts), parts=parts))
        self._joined = len(self._results)


def _parse_arguments(call: ToolCall) -> Any:
    try:
        return from_json(repaired(call.arguments))
    except ValueError:
        return call.arguments


def _with_calls(reply: ModelReply, step: int | None) -> ModelReply:
    """A reply with the calls that its text is; as it was where it is anything else."""
    try:
        reply_calls = _WrittenCalls.model_validate_json(repaired(reply.content))
    except ValidationError:
        return reply
    where = new_id() if step is None else step  # a step that is replayed names the same calls
    calls = tuple(
        ToolCall(id=f"call_{where}_{number}", name=call.name, arguments=_json(call.arguments))
        for number, call in enumerate(reply_calls.tool_calls)
    )
    return reply.model_copy(update={"content": "", "tool_calls": calls, "finish_reason": "tool_calls"})


class _InstructedMessages:
    """Messages whose system message ends with some words; one of these words alone where there is none."""

    def __init__(self, words: str) -> None:
        self._words = words
        self._messages: list[ChatMessage] = []

    def add(self, message: ChatMessage) -> None:
        """Add the next message."""
        if self._messages:
            self._messages.append(message)
        elif message.role == "system":
            words = f"{message.content}\n\n{self._words}"
            self._messages.append(message.model_copy(update={"content": words}))
        else:
            self._messages += [ChatMessage(role="system", content=self._words), message]

    def messages(self) -> tuple[ChatMessage, ...]:
        """The messages so far."""
        return tuple(self._messages) or (ChatMessage(role="system", content=self._words),)


def _json(value: Any) -> str:
    return to_json(value, fallback=plain).decode()


# Spans: docs/traces.md has the attributes, with the source of each name.


class CallSpans:
    """Makes the span of each call, below the span that its context names, or as a trace of its own.

    `find_provider` says who answered, by the request and its reply.
    """

    def __init__(
        self, tracing: Tracing | NoTracing, provider_of: Callable[[ModelRequest, ModelReply], str]
    ) -> None:
        self._tracing = tracing
        self._reply_provider = provider_of

    def begin(self, request: ModelRequest) -> Span:
        """The span of a call, to be entered."""
        if isinstance(self._tracing, NoTracing):
            return Span()
        operation = GenAI.EMBEDDINGS if request.inputs else GenAI.CHAT
        span = self._tracing.span(
            f"{operation} {request.model}",
            parent=request.context.traceparent,
            attributes=_asked(request, operation),
            kind="client",
        )
        if self._tracing.content:
            span.set(_request_contents(request))
        return span

    def answered(self, span: Span, request: ModelRequest, reply: ModelReply) -> None:
        """Say of a call how it was answered."""
        if isinstance(self._tracing, NoTracing):
            return
        span.set(_answered(reply, self._reply_provider(request, reply)))
        if self._tracing.content and not request.inputs:
            message = {"role": "assistant", "parts": [*_parts(reply.message())]}
            message["finish_reason"] = reply.finish_reason
            span.set({GenAI.OUTPUT_MESSAGES: _encoded([message])})


def _asked(request: ModelRequest, operation: str) -> dict[str, Any]:
    context = request.context
    attributes: dict[str, Any] = {
        GenAI.OPERATION_NAME: operation,
        GenAI.REQUEST_MODEL: request.model,
        GenAI.AGENT_NAME: request.user,
        TENANT: context.tenant_id,
    }
    if request.max_tokens is not None:
        attributes[GenAI.REQUEST_MAX_TOKENS] = request.max_tokens
    if request.temperature is not None:
        attributes[GenAI.REQUEST_TEMPERATURE] = request.temperature
    if context.thread_id is not None:
        attributes[GenAI.CONVERSATION_ID] = context.thread_id
    if context.prompt is not None:
        attributes[PROMPT] = context.prompt
    if context.purpose is not None:
        attributes["meshwright.call.purpose"] = context.purpose
    return attributes


def _answered(reply: ModelReply, provider: str) -> dict[str, Any]:
    """The attributes of a reply; most have neither cached nor hidden tokens, and say nothing of them."""
    usage = reply.usage
    answered: dict[str, Any] = {
        GenAI.PROVIDER_NAME: provider,
        GenAI.RESPONSE_MODEL: reply.model,
        GenAI.RESPONSE_FINISH_REASONS: (reply.finish_reason,),
        GenAI.USAGE_INPUT_TOKENS: usage.prompt_tokens,
        GenAI.USAGE_OUTPUT_TOKENS: usage.completion_tokens,
    }
    if usage.cached_tokens or usage.cache_write_tokens or usage.reasoning_tokens:
        answered[GenAI.USAGE_CACHED_TOKENS] = usage.cached_tokens
        answered[GenAI.USAGE_CACHE_WRITE_TOKENS] = usage.cache_write_tokens
        answered[GenAI.USAGE_REASONING_TOKENS] = usage.reasoning_tokens
    if reply.cache_hit:
        answered["meshwright.cache_hit"] = True
    if reply.cost_usd is not None:
        answered[COST] = float(reply.cost_usd)
    return answered


# What messages say, as the conventions have it


def _request_contents(request: ModelRequest) -> dict[str, Any]:
    contents = written(request, _SpanMessages)
    tools = [{"type": "function", **spec.model_dump()} for spec in request.tools]
    attributes = {
        GenAI.SYSTEM_INSTRUCTIONS: contents.system,
        GenAI.INPUT_MESSAGES: contents.messages,
        GenAI.TOOL_DEFINITIONS: tools,
    }
    return {name: _encoded(value) for name, value in attributes.items() if value}


class _SpanMessages:
    """The messages of a span, and apart from them the system messages."""

    def __init__(self) -> None:
        self.system: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []

    def add(self, message: ChatMessage) -> None:
        """Add the next message."""
        if message.role == "system":
            self.system.append(_text(message.content))
        else:
            self.messages.append(_message(message))


def _message(message: ChatMessage) -> dict[str, Any]:
    if message.role == "tool":
        answer = {"type": "tool_call_response", "id": message.tool_call_id, "response": message.content}
        return {"role": "tool", "parts": [answer]}
    return {"role": message.role, "parts": [*_parts(message)]}


def _parts(message: ChatMessage) -> Iterable[dict[str, Any]]:
    if message.content:
        yield _text(message.content)
    for part in message.parts:
        kind = str(part.get("type", ""))  # of a picture, a file or sound alone: its bytes would fill the span
        blob = {"type": "blob", "modality": kind.partition("_")[0], "content": ""}
        yield _text(part.get("text") or "") if kind == "text" else blob
    for call in message.tool_calls:
        yield {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "content": text}


def _encoded(value: Any) -> str:
    return encode(value).decode()

"""Spans of calls of models: the outermost part of the chain makes them, so that each call has one.

docs/traces.md has the attributes, with the source of each name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from meshwright.core.encoding import encode
from meshwright.core.tracing import COST, PROMPT, TENANT, GenAI, NoTracing, Span, Tracing
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest


class CallSpans:
    """Makes the span of each call, below the span that its context names, or as a trace of its own.

    `provider_of` says who answered, by the request and its reply.
    """

    def __init__(
        self, tracing: Tracing | NoTracing, provider_of: Callable[[ModelRequest, ModelReply], str]
    ) -> None:
        self._tracing = tracing
        self._provider_of = provider_of

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
            span.set(_contents_of(request))
        return span

    def answered(self, span: Span, request: ModelRequest, reply: ModelReply) -> None:
        """Say of a call how it was answered."""
        if isinstance(self._tracing, NoTracing):
            return
        span.set(_answered(reply, self._provider_of(request, reply)))
        if self._tracing.content and not request.inputs:
            span.set({GenAI.OUTPUT_MESSAGES: _json([_reply_message(reply)])})


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


def _contents_of(request: ModelRequest) -> dict[str, Any]:
    system = [_text(message.content) for message in request.messages if message.role == "system"]
    messages = [_message(message) for message in request.messages if message.role != "system"]
    tools = [{"type": "function", **spec.model_dump()} for spec in request.tools]
    contents = {
        GenAI.SYSTEM_INSTRUCTIONS: system,
        GenAI.INPUT_MESSAGES: messages,
        GenAI.TOOL_DEFINITIONS: tools,
    }
    return {name: _json(value) for name, value in contents.items() if value}


def _message(message: ChatMessage) -> dict[str, Any]:
    if message.role == "tool":
        answer = {"type": "tool_call_response", "id": message.tool_call_id, "response": message.content}
        return {"role": "tool", "parts": [answer]}
    return {"role": message.role, "parts": [*_parts(message)]}


def _parts(message: ChatMessage) -> Iterable[dict[str, Any]]:
    if message.content:
        yield _text(message.content)
    for part in message.parts:
        yield _text(part.get("text") or "") if part.get("type") == "text" else _named(part)
    for call in message.tool_calls:
        yield {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}


def _named(part: dict[str, Any]) -> dict[str, Any]:
    """A picture, a file or sound by its kind alone: its bytes would be the size of the span."""
    return {"type": "blob", "modality": str(part.get("type", "")).partition("_")[0], "content": ""}


def _reply_message(reply: ModelReply) -> dict[str, Any]:
    return {"role": "assistant", "parts": [*_parts(reply.message())], "finish_reason": reply.finish_reason}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "content": text}


def _json(value: Any) -> str:
    return encode(value).decode()

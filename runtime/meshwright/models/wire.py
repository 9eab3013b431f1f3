"""Chat completions as OpenAI's API writes them: what servers, LiteLLM's proxy and its Router all speak."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from meshwright.messages import Usage
from meshwright.models.port import (
    ChatMessage,
    ContentRefused,
    ModelReply,
    ModelRequest,
    ModelUnavailable,
    ToolCall,
    ToolSpec,
)
from meshwright.money import reported_cost

REFUSED = "content_filter"
"""The reason to finish of an answer that the provider's policy cut off."""


def completion_body(request: ModelRequest, *, stream: bool = False) -> dict[str, Any]:
    """Write a request's body. `metadata` repeats the tags: it is where LiteLLM's Router looks for them.

    A stream tells the tokens at its end, which servers leave out unless they are asked.
    """
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [message_body(message) for message in request.messages],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "user": request.user,
        "tags": list(request.tags),
        "metadata": {**request.context.metadata(), "tags": list(request.tags)},
    }
    if request.tools:
        body["tools"] = [tool_body(tool) for tool in request.tools]
        if request.tool_choice != "auto":  # which is what servers do anyway, and some refuse to hear
            body["tool_choice"] = request.tool_choice
    if request.response_schema is not None:
        schema: dict[str, Any] = {"name": "answer", "schema": request.response_schema}
        if is_for_strict_mode(request.response_schema):
            schema["strict"] = True
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def is_for_strict_mode(schema: Mapping[str, Any]) -> bool:
    """Whether OpenAI takes a schema in strict mode, where it then lets the model write nothing else.

    So are those of shapes, but for free dictionaries and sets. A schema that is not goes without `strict`.
    """
    return schema.get("type") == "object" and _is_strict(schema)


def _is_strict(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or schema.keys() & NOT_STRICT:
        return False
    fields = schema.get("properties") or {}
    if schema.get("type") == "object" or fields:
        closed = schema.get("additionalProperties") is False
        if not closed or set(schema.get("required") or ()) != set(fields):
            return False
    parts = [*fields.values(), *(schema.get("$defs") or {}).values(), *(schema.get("anyOf") or ())]
    return all(map(_is_strict, [*parts, schema["items"]] if "items" in schema else parts))


NOT_STRICT = frozenset(
    {"allOf", "oneOf", "not", "if", "then", "else", "default", "dependentRequired", "dependentSchemas"}
    | {"patternProperties", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties"}
    | {"prefixItems", "contains", "uniqueItems", "unevaluatedItems"}
)
"""What no schema may hold in OpenAI's strict mode."""


def message_body(message: ChatMessage) -> dict[str, Any]:
    """Write one message; an assistant that only calls tools has no content."""
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["content"] = message.content or None
        body["tool_calls"] = [call_body(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    return body


def call_body(call: ToolCall) -> dict[str, Any]:
    """Write a call that the model made earlier."""
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def tool_body(tool: ToolSpec) -> dict[str, Any]:
    """Write a tool that the model may call."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def read_completion(body: Any, *, model: str, source: str, **more: Any) -> ModelReply:
    """Read a reply's body; `model` stands in where the server does not say which model answered.

    Arguments of tool calls are passed on as they came; `more` is what else is known of the reply. Raises
    ContentRefused for an answer that was held back, and ModelUnavailable, naming `source`, for anything that
    is not a chat completion.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        reason = choice.get("finish_reason") or "stop"
        if reason == REFUSED or message.get("refusal"):
            raise ContentRefused(f"{source} held back the answer of model {model!r}: its policy forbids it")
        usage = body.get("usage") or {}
        if "cost" in usage and "cost_usd" not in more:  # so a LiteLLM proxy says it of a stream
            more |= said_cost(usage["cost"])
        content, calls = read_content(message.get("content")), read_calls(message.get("tool_calls") or ())
        counted = read_usage(usage)
        if not is_counted(counted, wrote=bool(content or calls)):
            more.setdefault("cost_source", "estimated")
        return ModelReply(
            content=content,
            tool_calls=calls,
            model=body.get("model") or model,
            usage=counted,
            finish_reason=reason,
            **more,
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ValidationError):
        raise not_a_completion(source) from None  # the cause would quote the reply


def not_a_completion(source: str) -> ModelUnavailable:
    """The error for a reply that cannot be read."""
    return ModelUnavailable(
        f"{source} answered with something that is not a chat completion",
        remedy="Check that the address is the base URL of an OpenAI-compatible server",
    )


def read_content(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    """Read text that came whole, in parts, or not at all."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or "" for part in content)


def read_calls(calls: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    """Read tool calls; a call without an id gets its place as one."""
    return tuple(read_call(number, call) for number, call in enumerate(calls))


def read_call(number: int, call: Mapping[str, Any]) -> ToolCall:
    """Read one tool call; arguments that came as an object become the JSON text that was meant."""
    function = call["function"]
    arguments = function.get("arguments") or "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(id=call.get("id") or f"call_{number}", name=function["name"], arguments=text)


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """Read the tokens that the server counted."""
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return Usage(
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        cached_tokens=int(prompt.get("cached_tokens") or 0) if prompt else 0,
        reasoning_tokens=int(completion.get("reasoning_tokens") or 0) if completion else 0,
    )


def is_counted(usage: Usage, *, wrote: bool) -> bool:
    """Whether a server has counted the tokens: no prompt has none, and no answer that says something."""
    return usage.prompt_tokens > 0 and (usage.completion_tokens > 0 or not wrote)


def said_cost(text: str | float | None) -> dict[str, Any]:
    """What a reply says of a cost that whoever answered has told, if it is one."""
    cost = read_cost(text)
    return {} if cost is None else {"cost_usd": cost, "cost_source": "reported"}


def read_cost(text: str | float | None) -> Decimal | None:
    """Read a price in US dollars; None where it is missing, absurd, or no price at all."""
    return None if text is None else reported_cost(text)

"""Errors in the words and forms of the providers themselves."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

WireName = Literal["openai", "anthropic"]


class Refusal(NamedTuple):
    """An error reply. `kind` is what the ledger counts it as."""

    kind: str
    status: int
    body: dict[str, Any]


def _openai(text: str, type_: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": text, "type": type_, "param": param, "code": code}}


def _anthropic(text: str, type_: str) -> dict[str, Any]:
    error = {"type": type_, "message": text}
    return {"type": "error", "error": error, "request_id": "req_simulated"}


def invalid(wire: WireName, text: str, kind: str = "invalid") -> Refusal:
    """The request breaks a rule of the API."""
    body = _openai(text, "invalid_request_error", None, "messages")
    return Refusal(kind, 400, body if wire == "openai" else _anthropic(text, "invalid_request_error"))


def unanswered(wire: WireName, call_id: str) -> Refusal:
    """A call of a tool without its result."""
    openai = (
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
        f"'tool_call_id'. The following tool_call_ids did not have response messages: {call_id}"
    )
    anthropic = (
        f"messages: `tool_use` ids were found without `tool_result` blocks immediately after: {call_id}. "
        "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
    )
    return invalid(wire, openai if wire == "openai" else anthropic)


def unasked(wire: WireName, call_id: str) -> Refusal:
    """A result of a tool that no call asked for."""
    openai = (
        "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
        "'tool_calls'."
    )
    anthropic = (
        f"messages: unexpected `tool_use_id` found in `tool_result` blocks: {call_id}. Each `tool_result` "
        "block must have a corresponding `tool_use` block in the previous message."
    )
    return invalid(wire, openai if wire == "openai" else anthropic)


def lost_thinking(found: str | None) -> Refusal:
    """Thinking that led to a call of a tool did not come back (`found` instead), or not as it was signed."""
    if found is None:
        return invalid("anthropic", "messages.1.content.0: Invalid `signature` in `thinking` block")
    return invalid(
        "anthropic",
        f"messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{found}`. When "
        "`thinking` is enabled, a final `assistant` message must start with a thinking block (preceeding the "
        "lastmost set of `tool_use` and `tool_result` blocks).",
    )


def too_long(wire: WireName, tokens: int, max_tokens: int, window: int) -> Refusal:
    """The request, or it with what may be written, is longer than the window."""
    if wire == "anthropic":
        text = (
            f"prompt is too long: {tokens} tokens > {window} maximum"
            if tokens > window
            else f"input length and `max_tokens` exceed context limit: {tokens} + {max_tokens} > {window}, "
            "decrease input length or `max_tokens` and try again"
        )
        return invalid(wire, text, "too-long")
    text = f"This model's maximum context length is {window} tokens. However, " + (
        f"your messages resulted in {tokens} tokens. Please reduce the length of the messages."
        if tokens > window
        else f"you requested {tokens + max_tokens} tokens ({tokens} in the messages, {max_tokens} in the "
        "completion). Please reduce the length of the messages or completion."
    )
    body = _openai(text, "invalid_request_error", "context_length_exceeded", "messages")
    return Refusal("too-long", 400, body)


def refused(wire: WireName, kind: str, status: int) -> Refusal:
    """The provider takes the key, the credit or the model no more."""
    type_, text = {
        401: ("authentication_error", "Incorrect API key provided: sk-****ated."),
        402: ("billing_error", "Your credit balance is too low to access the API."),
        403: ("permission_error", "Your organization has been disabled."),
    }.get(
        status, ("not_found_error", "The model `simulated` does not exist or you do not have access to it.")
    )
    body = _openai(text, "invalid_request_error", type_) if wire == "openai" else _anthropic(text, type_)
    return Refusal(kind, status, body)


def trouble(wire: WireName, kind: str, status: int, retry_after: float | None) -> Refusal:
    """The provider is at fault, or overloaded, or limits the rate."""
    if status == 429:
        again = f" Please try again in {retry_after:g}s." if retry_after is not None else ""
        limit = "Limit 30000, Used 29512, Requested 1906."
        openai = _openai(
            f"Rate limit reached for simulated in organization org-simulated on tokens per min (TPM): {limit}"
            f"{again}",
            "tokens",
            "rate_limit_exceeded",
        )
        text = "This request would exceed your organization's rate limit of 30,000 input tokens per minute"
        anthropic = _anthropic(text, "rate_limit_error")
    elif kind == "overload":
        openai = _openai(
            "The server is currently overloaded with other requests. Sorry about that! You can retry your "
            "request, or contact us through our help center if the error persists.",
            "server_error",
        )
        anthropic = _anthropic("Overloaded", "overloaded_error")
    else:
        openai = _openai(
            "The server had an error while processing your request. Sorry about that!", "server_error"
        )
        anthropic = _anthropic("Internal server error", "api_error")
    return Refusal(kind, status, openai if wire == "openai" else anthropic)

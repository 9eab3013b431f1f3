"""Anthropic's messages as a provider writes them; replies are given in OpenAI's shape and turned over."""

from __future__ import annotations

import json
from typing import Any

from tests.support.openai_wire import WORD, reason_of

PATH = "messages"
REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "content_filter": "refusal", "length": "max_tokens"}
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def completion(body: dict[str, Any], message: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    return {
        **opening(body, usage),
        "content": blocks(message),
        "stop_reason": REASONS[reason_of(message)],
        "usage": tokens(usage),
    }


def stream(body: dict[str, Any], message: dict[str, Any], usage: dict[str, Any]) -> list[bytes]:
    """The events of a stream, each with its name."""
    events = [event("message_start", message=opening(body, usage))]
    for index, block in enumerate(blocks(message)):
        empty, pieces = opened(block)
        events.append(event("content_block_start", index=index, content_block=empty))
        events += [event("content_block_delta", index=index, delta=piece) for piece in pieces]
        events.append(event("content_block_stop", index=index))
    reason = {"stop_reason": REASONS[reason_of(message)], "stop_sequence": None}
    events.append(event("message_delta", delta=reason, usage=tokens(usage)))
    return [*events, event("message_stop")]


def opening(body: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**tokens(usage), "output_tokens": 1},
    }


def blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    text = [{"type": "text", "text": message["content"]}] if message.get("content") else []
    if thought := message.get("reasoning_content"):
        text.insert(0, {"type": "thinking", "thinking": thought, "signature": message["signature"]})
    return text + [
        {
            "type": "tool_use",
            "id": call["id"],
            "name": call["function"]["name"],
            "input": json.loads(call["function"]["arguments"]),
        }
        for call in message.get("tool_calls") or []
    ]


def opened(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it begins, and the pieces that it grows by."""
    if block["type"] == "text":
        pieces = [{"type": "text_delta", "text": word} for word in WORD.findall(block["text"])]
        return {**block, "text": ""}, pieces
    if block["type"] == "thinking":
        pieces = [{"type": "thinking_delta", "thinking": word} for word in WORD.findall(block["thinking"])]
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return {**block, "thinking": "", "signature": ""}, [*pieces, signed]
    text = json.dumps(block["input"])
    parts = [text[at : at + 5] for at in range(0, len(text), 5)]
    return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]


def tokens(usage: dict[str, Any]) -> dict[str, Any]:
    """Anthropic counts what came from its cache apart from the input."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    written = usage.get("cache_write_tokens", 0)
    return {
        "input_tokens": usage["prompt_tokens"] - cached - written,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
        "output_tokens": usage["completion_tokens"],
    }


def event(name: str, **data: Any) -> bytes:
    told = json.dumps({"type": name, **data}, ensure_ascii=False)
    return f"event: {name}\ndata: {told}\n\n".encode()


def error(status: int, text: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": TYPES.get(status, "api_error"), "message": text}}


def stream_error(told: dict[str, Any]) -> bytes:
    return event("error", error=told["error"])

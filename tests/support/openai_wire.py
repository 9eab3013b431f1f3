"""OpenAI's chat completions as a provider writes them."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

PATH = "chat/completions"
EMBEDDINGS = "embeddings"
FIELDS = frozenset(
    {
        "model",
        "messages",
        "temperature",
        "max_tokens",
        "max_completion_tokens",
        "user",
        "stream",
        "stop",
        "top_p",
    }
    | {"stream_options", "tools", "tool_choice", "parallel_tool_calls", "response_format", "seed"}
)
"""Those of OpenAI's that matter here: a strict server refuses others."""
WORD = re.compile(r"\S+\s*|\s+")


def reason_of(message: dict[str, Any]) -> str:
    return message.get("finish_reason") or ("tool_calls" if message.get("tool_calls") else "stop")


def completion(body: dict[str, Any], message: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in message.items() if name not in ("finish_reason", "signature")}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, **said},
        "finish_reason": reason_of(message),
    }
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        **({"usage": usage} if usage else {}),
    }


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """Vectors of three numbers, which count the inputs; the last comes first: no order is promised."""
    data = [
        {"object": "embedding", "index": n, "embedding": [float(n), 0.5, 1.0]}
        for n in range(len(body["input"]))
    ]
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    return {"object": "list", "data": data[::-1], "model": body["model"], "usage": usage}


def stream(body: dict[str, Any], message: dict[str, Any], usage: dict[str, Any]) -> list[bytes]:
    """The events of a stream: words, interleaved fragments of tool calls, and usage where it is asked for."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    thought = message.get("reasoning_content") or ""
    deltas += [{"reasoning_content": word} for word in WORD.findall(thought)]
    deltas += [{"content": word} for word in WORD.findall(message.get("content") or "")]
    deltas += [{"images": [image]} for image in message.get("images") or []]
    deltas += [{"audio": piece} for piece in message.get("audio_pieces") or []]
    deltas += [{"tool_calls": [each]} for each in fragments(message.get("tool_calls") or [])]
    chunks = [chunk(body, delta, None) for delta in deltas] + [chunk(body, {}, reason_of(message))]
    if usage and (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**chunk(body, {}, None), "choices": [], "usage": usage})
    return [event(each) for each in chunks] + [b"data: [DONE]\n\n"]


def chunk(body: dict[str, Any], delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
    }


def fragments(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The heads of the calls, and then their arguments in turns, some characters each."""
    heads = [
        {"index": n, **call, "function": {**call["function"], "arguments": ""}}
        for n, call in enumerate(calls)
    ]
    texts = [
        [{"index": n, "function": {"arguments": part}} for part in re.findall(r"(?s).{1,5}", arguments)]
        for n, arguments in enumerate(call["function"]["arguments"] for call in calls)
    ]
    turns = itertools.zip_longest(*texts)
    return heads + [each for turn in turns for each in turn if each is not None]


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def error(status: int, text: str) -> dict[str, Any]:
    return {"error": {"message": text, "type": "fake_error", "param": None, "code": str(status)}}


def stream_error(told: dict[str, Any]) -> bytes:
    return event(told)

"""Chat completions as OpenAI's clients want them answered: whole, or in pieces."""

from __future__ import annotations

import time
from typing import Any

from meshwright.messages import Usage, new_id
from meshwright.models.port import ModelReply, ToolCall


class Completion:
    """One answer: its id and time, which all of its pieces share, and its parts as OpenAI writes them."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{new_id()}", "created": int(time.time())}
        self._model = model

    def whole(self, reply: ModelReply) -> dict[str, Any]:
        """The answer at once."""
        message: dict[str, Any] = {"role": "assistant", "content": reply.content, "refusal": None}
        if reply.tool_calls:
            message["content"] = reply.content or None
            message["tool_calls"] = [call_body(call) for call in reply.tool_calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ending(reply)}
        return {
            **self._head,
            "object": "chat.completion",
            "model": reply.model,
            "choices": [choice],
            "usage": usage_body(reply.usage),
        }

    def piece(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """A piece of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk([choice])

    def last(self, reply: ModelReply) -> list[dict[str, Any]]:
        """What ends a streamed answer: the tools that it calls, and why it ended."""
        calls = [{"index": index, **call_body(call)} for index, call in enumerate(reply.tool_calls)]
        told = [self.piece({"tool_calls": calls})] if calls else []
        return [*told, self.piece({}, ending(reply))]

    def usage(self, reply: ModelReply) -> dict[str, Any]:
        """The tokens of a streamed answer, in a piece of their own."""
        return {**self._chunk([]), "usage": usage_body(reply.usage)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "model": self._model, "choices": choices}


def call_body(call: ToolCall) -> dict[str, Any]:
    """A tool call of an answer."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def ending(reply: ModelReply) -> str:
    """Why an answer ended: clients look for `tool_calls`, whatever a provider says."""
    return "tool_calls" if reply.tool_calls else reply.finish_reason


def usage_body(usage: Usage) -> dict[str, Any]:
    """The tokens of an answer."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }

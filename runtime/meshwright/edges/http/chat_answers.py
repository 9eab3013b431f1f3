"""Chat completions as OpenAI's clients want them answered: whole, or as a stream of pieces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from pydantic_core import to_json
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from meshwright.edges.http.errors import openai_error
from meshwright.errors import MeshError
from meshwright.messages import Usage, new_id
from meshwright.models.port import STREAM_RESTART, Model, ModelReply, ModelRequest, ModelUnavailable, ToolCall

_DONE = b"data: [DONE]\n\n"


class ChatAnswer:
    """One answer: its id and time, which all of its pieces share, and its parts as OpenAI writes them."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{new_id()}", "created": int(time.time())}
        self._model = model

    def whole(self, reply: ModelReply) -> dict[str, Any]:
        """The answer at once."""
        message: dict[str, Any] = {"role": "assistant", "content": reply.content, "refusal": None}
        if reply.tool_calls:
            message["content"] = reply.content or None
            message["tool_calls"] = [_call_body(call) for call in reply.tool_calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _ending(reply)}
        return {
            **self._head,
            "object": "chat.completion",
            "model": reply.model,
            "choices": [choice],
            "usage": _usage_body(reply.usage),
        }

    def piece(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """A piece of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk([choice])

    def last(self, reply: ModelReply) -> list[dict[str, Any]]:
        """What ends a streamed answer: the tools that it calls, and why it ended."""
        calls = [{"index": index, **_call_body(call)} for index, call in enumerate(reply.tool_calls)]
        told = [self.piece({"tool_calls": calls})] if calls else []
        return [*told, self.piece({}, _ending(reply))]

    def usage(self, reply: ModelReply) -> dict[str, Any]:
        """The tokens of a streamed answer, in a piece of their own."""
        return {**self._chunk([]), "usage": _usage_body(reply.usage)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "model": self._model, "choices": choices}


def _call_body(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _ending(reply: ModelReply) -> str:
    """Why an answer ended: clients look for `tool_calls`, whatever a provider says."""
    return "tool_calls" if reply.tool_calls else reply.finish_reason


def _usage_body(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


class StreamedCall:
    """A call under way, and the pieces of its answer. Whoever makes one ends it."""

    def __init__(self, model: Model, request: ModelRequest) -> None:
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._first: str | None = None
        self._sent = ""
        self._retold: str | None = None
        self._parted = False
        self._task = asyncio.create_task(model.complete(request, self._take), name="streamed-call")
        self._task.add_done_callback(lambda _: self._pieces.put_nowait(None))

    async def begun(self) -> None:
        """Wait for the first piece, or for the end of the call. Raises the error that it ended with."""
        self._first = await self._pieces.get()
        if self._first is None:
            await self.reply()

    async def pieces(self) -> AsyncGenerator[str]:
        """The text, as it comes; without a stream below, all of it at the end. Raises ModelError."""
        piece = self._first
        while piece is not None:
            yield piece
            piece = await self._pieces.get()
        reply = await self.reply()
        if reply.content and not self._sent:
            yield reply.content

    async def reply(self) -> ModelReply:
        """The whole answer. Raises ModelError."""
        if self._parted:
            raise ModelUnavailable("the stream broke off, and another attempt answers in other words")
        return await asyncio.shield(self._task)

    async def end(self) -> None:
        """Break off what is under way."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _take(self, text: str) -> None:
        if text == STREAM_RESTART:
            self._retold = ""
        elif self._retold is None:
            self._tell(text)
        else:
            self._repeat(self._retold + text)

    def _repeat(self, retold: str) -> None:
        """Another attempt: what was told cannot be taken back, so it has to say the same, and then go on."""
        self._retold = retold
        if retold.startswith(self._sent):
            self._tell(retold[len(self._sent) :])
            self._retold = None
        elif not self._sent.startswith(retold):
            self._parted = True
            self._task.cancel()

    def _tell(self, text: str) -> None:
        if text:
            self._sent += text
            self._pieces.put_nowait(text)


class CompletionStream(StreamingResponse):
    """An answer as server-sent events. When the client has gone, the call is broken off."""

    media_type = "text/event-stream"

    def __init__(self, call: StreamedCall, completion: ChatAnswer, *, with_usage: bool) -> None:
        self._call = call
        self._completion = completion
        self._with_usage = with_usage
        self._body = self._frames()
        super().__init__(self._body, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._body.aclose()
            await self._call.end()

    async def _frames(self) -> AsyncGenerator[bytes]:
        yield _frame(self._completion.piece({"role": "assistant", "content": ""}))
        try:
            async for text in self._call.pieces():
                yield _frame(self._completion.piece({"content": text}))
            for document in self._end(await self._call.reply()):
                yield _frame(document)
        except MeshError as error:
            yield _frame(openai_error(error))
            return
        yield _DONE

    def _end(self, reply: ModelReply) -> Iterator[dict[str, Any]]:
        yield from self._completion.last(reply)
        if self._with_usage:
            yield self._completion.usage(reply)


def _frame(document: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % to_json(document)

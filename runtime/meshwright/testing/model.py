"""A model that says what a test has it say."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from meshwright.errors import ModelError
from meshwright.models.offline import stream_words
from meshwright.models.port import ModelRefused, ModelReply, ModelRequest, OnDelta, ToolCall

Reply = str | ToolCall | Sequence[ToolCall] | ModelReply | ModelError | Callable[[ModelRequest], ModelReply]
"""An answer in words, one or more tools to call, a whole reply, an error to raise, or what makes a reply."""

COMPRESSOR = "context-service"
MAX_SHOWN_CHARS = 200  # of a request, in an error


class ScriptEnded(ModelError):
    """The scripted model was called once more than it has replies."""


def tool_call(name: str, /, **arguments: Any) -> ToolCall:
    """A reply that asks for a tool; the model gives the call its id."""
    return ToolCall(id="", name=name, arguments=json.dumps(arguments))


class ScriptedModel:
    """Gives the replies of its script, one a call, and keeps the requests.

        model.replies(tool_call("fetch_page", url="https://example.org"), "It greets the world.")

    Replies go to whoever calls, or to one agent alone (`to`). The context-service gets only what is meant
    for it, and otherwise does without a model. A call too many raises ScriptEnded.
    """

    name = "scripted"

    def __init__(self, *replies: Reply) -> None:
        self.requests: list[ModelRequest] = []
        self.ended: ScriptEnded | None = None
        """What the first call too many was told, if there was one."""
        self._scripts: defaultdict[str | None, deque[Reply]] = defaultdict(deque)
        self._calls = 0
        self.replies(*replies)

    def replies(self, *replies: Reply, to: str | None = None) -> None:
        """Add to the script: of one agent, by its id, or of all."""
        self._scripts[to].extend(replies)

    @property
    def unsaid(self) -> int:
        """How many replies of the script nobody has asked for yet."""
        return sum(map(len, self._scripts.values()))

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Give the next reply of the script; a stream of it comes in words."""
        reply = self._reply(request)
        if on_delta is not None:
            await stream_words(reply.content, on_delta)
        return reply

    async def close(self) -> None:
        """Nothing to give back."""

    def _reply(self, request: ModelRequest) -> ModelReply:
        self.requests.append(request)
        reply = self._next(request)
        if callable(reply):
            return reply(request)
        if isinstance(reply, ModelError):
            raise reply
        if isinstance(reply, ModelReply):
            return reply
        if isinstance(reply, str):
            return ModelReply(content=reply, model=self.name, cost_usd=Decimal(0))
        calls = [reply] if isinstance(reply, ToolCall) else reply
        return ModelReply(
            tool_calls=tuple(map(self._with_id, calls)),
            model=self.name,
            cost_usd=Decimal(0),
            finish_reason="tool_calls",
        )

    def _next(self, request: ModelRequest) -> Reply:
        own = self._scripts[request.user]
        if own:
            return own.popleft()
        if request.user == COMPRESSOR:
            raise ModelRefused("the script has nothing for the context-service, which does without")
        if self._scripts[None]:
            return self._scripts[None].popleft()
        error = ScriptEnded(
            f"the script has no reply to call {len(self.requests)}, by {request.user}: {_shown(request)}",
            remedy='add one with model.replies("...")',
        )
        self.ended = self.ended or error
        raise error

    def _with_id(self, call: ToolCall) -> ToolCall:
        self._calls += 1
        return call if call.id else call.model_copy(update={"id": f"call_{self._calls}"})


def _shown(request: ModelRequest) -> str:
    last = request.messages[-1]
    text = f"{last.role}: {last.content}"
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "..."

"""What a call may cost at most, before it is made; and the tokens of those that nobody has counted."""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

from pydantic_core import to_json

from meshwright.messages import Usage
from meshwright.models.port import STREAM_RESTART, ModelReply, ModelRequest, OnDelta
from meshwright.money import Price

BYTES_PER_TOKEN = 3  # English text has four and more: rather too many tokens than too few
MORE_TOKENS = 16  # what a provider may add around a message, a call, a tool or a schema


class PriceList(Protocol):
    """Says what calls cost; None where it does not know."""

    def most(self, request: ModelRequest, prompt_tokens: int | None = None) -> Price | None:
        """The dearest price of all that could answer a request."""
        ...

    def of_reply(self, reply: ModelReply, request: ModelRequest) -> Decimal | None:
        """What a reply cost."""
        ...


def most_prompt_tokens(request: ModelRequest) -> int:
    """A bound on the tokens of a prompt: no tokenizer makes more tokens than there are bytes."""
    parts = _parts_of(request)
    return sum(parts) + MORE_TOKENS * (1 + len(parts))


def estimated_usage(reply: ModelReply, request: ModelRequest) -> Usage:
    """The tokens of a reply, those that nobody has counted estimated: one for each three bytes of text."""
    wrote = [reply.content, *(f"{call.name}{call.arguments}" for call in reply.tool_calls)]
    usage = reply.usage
    counts = {
        "prompt_tokens": usage.prompt_tokens or estimated_tokens(sum(_parts_of(request))),
        "completion_tokens": usage.completion_tokens or estimated_tokens(sum(map(size_of, wrote))),
    }
    return usage.model_copy(update=counts)


def estimated_tokens(size: int) -> int:
    """About how many tokens so many bytes are."""
    return -(-size // BYTES_PER_TOKEN)


def _parts_of(request: ModelRequest) -> list[int]:
    """The bytes of each part of a prompt: its messages, the calls in them, tools, and their schemas."""
    texts = [message.content for message in request.messages]
    texts += [
        f"{call.id}{call.name}{call.arguments}" for each in request.messages for call in each.tool_calls
    ]
    texts += [f"{tool.name}{tool.description}" for tool in request.tools]
    schemas = [tool.parameters for tool in request.tools]
    schemas += [] if request.response_schema is None else [request.response_schema]
    return [*map(size_of, texts), *(len(to_json(schema)) for schema in schemas)]


def size_of(text: str) -> int:
    """The bytes of a text, which may hold half of a character."""
    return len(text.encode(errors="surrogatepass"))


class Heard:
    """Passes on the pieces of a streamed answer, and counts them: `on_delta` is what takes them."""

    def __init__(self, on_delta: OnDelta | None) -> None:
        self.begun = 1
        self.bytes = 0
        self._attempts: list[int] = [0]
        self._pass_on = on_delta

    @property
    def on_delta(self) -> OnDelta | None:
        """Takes the pieces, where somebody wants them."""
        return self._take if self._pass_on is not None else None

    def usage(self, request: ModelRequest) -> Usage:
        """A bound on the tokens that were read and written, those of attempts before the last included."""
        return Usage(
            prompt_tokens=self.begun * most_prompt_tokens(request),
            completion_tokens=self.bytes if self.bytes else request.max_tokens,
        )

    def lost_usage(self, reply: ModelReply) -> Usage | None:
        """The tokens of streams that broke off before the one that was answered; None where none did.

        Each read the prompt; what it wrote is estimated by what came of it.
        """
        cut = [size for size in self._attempts[:-1] if size]
        if not cut:
            return None
        return Usage(
            prompt_tokens=len(cut) * reply.usage.prompt_tokens,
            completion_tokens=sum(map(estimated_tokens, cut)),
        )

    def _take(self, text: str) -> None:
        assert self._pass_on is not None
        if text == STREAM_RESTART:
            self.begun += 1
            self._attempts.append(0)
        self._attempts[-1] += size_of(text)
        self.bytes += size_of(text)
        self._pass_on(text)

"""What a call may cost at most, before it is made; and the tokens of those that nobody has counted."""

from __future__ import annotations

from pydantic_core import to_json

from meshwright.messages import Usage
from meshwright.models.port import STREAM_RESTART, ModelReply, ModelRequest, OnDelta

BYTES_PER_TOKEN = 3  # English text has four and more: rather too many tokens than too few
EXTRA_TOKENS = 16  # what a provider may add around a message, a call, a tool or a schema


def max_prompt_tokens(request: ModelRequest) -> int:
    """A bound on the tokens of a prompt: no tokenizer makes more tokens than there are bytes."""
    parts = _parts_of(request)
    return sum(parts) + EXTRA_TOKENS * (1 + len(parts))


def estimated_usage(reply: ModelReply, request: ModelRequest) -> Usage:
    """The tokens of a reply, those that nobody has counted estimated: one for each three bytes of text."""
    wrote = [reply.content, *(f"{call.name}{call.arguments}" for call in reply.tool_calls)]
    usage = reply.usage
    counts = {
        "prompt_tokens": usage.prompt_tokens or _estimated_tokens(sum(_parts_of(request))),
        "completion_tokens": usage.completion_tokens or _estimated_tokens(sum(map(_size_of, wrote))),
    }
    return usage.model_copy(update=counts)


class StreamMeter:
    """Passes on the pieces of a streamed answer, and counts them: `on_delta` is what takes them."""

    def __init__(self, on_delta: OnDelta | None) -> None:
        self._attempts = [0]  # the bytes of each
        self._pass_on = on_delta

    @property
    def bytes(self) -> int:
        """What all attempts have written."""
        return sum(self._attempts)

    @property
    def on_delta(self) -> OnDelta | None:
        """Takes the pieces, where somebody wants them."""
        return self._take if self._pass_on is not None else None

    def usage(self, request: ModelRequest) -> Usage:
        """A bound on the tokens that were read and written, those of attempts before the last included."""
        return Usage(
            prompt_tokens=len(self._attempts) * max_prompt_tokens(request),
            completion_tokens=self.bytes or request.max_tokens,
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
            completion_tokens=sum(map(_estimated_tokens, cut)),
        )

    def _take(self, text: str) -> None:
        assert self._pass_on is not None
        if text == STREAM_RESTART:
            self._attempts.append(0)
        self._attempts[-1] += _size_of(text)
        self._pass_on(text)


def _parts_of(request: ModelRequest) -> list[int]:
    """The bytes of each part of a prompt: its messages, the calls in them, tools, and their schemas."""
    texts = [message.content for message in request.messages]
    for message in request.messages:
        texts += [f"{call.id}{call.name}{call.arguments}" for call in message.tool_calls]
    texts += [f"{tool.name}{tool.description}" for tool in request.tools]
    schemas = [tool.parameters for tool in request.tools]
    schemas += [] if request.response_schema is None else [request.response_schema]
    return [*map(_size_of, texts), *(len(to_json(schema)) for schema in schemas)]


def _estimated_tokens(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)


def _size_of(text: str) -> int:
    """The bytes of a text, which may hold half of a character."""
    return len(text.encode(errors="surrogatepass"))

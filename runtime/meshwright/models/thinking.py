"""The thinking of models: as a stream brings it, as a conversation repeats it, and as OpenAI's wire has it.

OpenAI's own API shows none; DeepSeek, vLLM, OpenRouter and LiteLLM do, in fields of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from meshwright.models.port import ModelReply, OnDelta

_TEXTS = ("reasoning_content", "reasoning")
_KINDS = ("thinking", "redacted_thinking")


class Thinking(NamedTuple):
    """A piece of a model's thinking."""

    text: str = ""
    """The next piece of its text."""
    block: Mapping[str, Any] | None = None
    """The block that ends here, as the reply has it. None while it goes on."""


OnThinking = Callable[[Thinking], None]
"""Takes the next piece of thinking, which comes before the text that it is for."""


def thinking_callback(on_delta: OnDelta | None) -> OnThinking | None:
    """Returns the function that takes the thinking of a stream; None where its reader wants text alone."""
    return getattr(on_delta, "thinking", None)


def stream_whole(reply: ModelReply, on_delta: OnDelta) -> None:
    """Hand on a reply that came at once: its thinking, then its text in one piece."""
    if (take_thinking := thinking_callback(on_delta)) is not None:
        for block in reply.thinking:
            take_thinking(Thinking(block=block))
    if reply.content:
        on_delta(reply.content)


def signed_blocks(blocks: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Returns the blocks of thinking that a provider wants back: it refuses those without its signature."""
    return tuple(dict(block) for block in blocks if block.get("signature") or block.get("data"))


def text_of_blocks(blocks: Iterable[Mapping[str, Any]]) -> str:
    """Returns the readable text of blocks of thinking."""
    return "".join(str(block.get("thinking") or "") for block in blocks)


class ThinkingChunks:
    """Puts the thinking of a streamed completion together; `think` gets its text, and each block at its end.

    A block ends with its signature, with the next one, or where the answer begins.
    """

    def __init__(self, think: Callable[[str, Mapping[str, Any] | None], None]) -> None:
        self._think = think
        self._blocks: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None

    def add(self, delta: Mapping[str, Any]) -> str:
        """Take what a chunk has of it; returns its text."""
        fragments = _thinking_blocks(delta)
        if not fragments:
            text = _thinking_text(delta)
            self._grow(text)
            return text
        for fragment in fragments:
            self._add_fragment(fragment)
        return "".join(str(value) for block in fragments for value in block.values() if value)

    def end(self) -> list[dict[str, Any]]:
        """End the block that is open; returns all blocks."""
        if self._open is not None:
            block, self._open = self._open, None
            self._blocks.append(block)
            self._think("", block)
        return self._blocks

    def _add_fragment(self, fragment: Mapping[str, Any]) -> None:
        if fragment["type"] == "redacted_thinking":
            self.end()
            self._open = dict(fragment)
        else:
            self._grow(str(fragment.get("thinking") or ""))
            if (signature := fragment.get("signature")) and self._open is not None:
                self._open["signature"] = signature
        if self._open is not None and (self._open.get("signature") or "data" in self._open):
            self.end()

    def _grow(self, text: str) -> None:
        if text:
            block = self._open = self._open or {"type": "thinking", "thinking": "", "signature": ""}
            block["thinking"] += text
            self._think(text, None)


def read_thinking(message: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Returns the blocks of thinking of a whole message; one without signature for text alone."""
    if blocks := _thinking_blocks(message):
        return tuple(map(dict, blocks))
    text = _thinking_text(message)
    return ({"type": "thinking", "thinking": text, "signature": ""},) if text else ()


def _thinking_blocks(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    others = message.get("provider_specific_fields") or {}
    blocks = message.get("thinking_blocks") or others.get("thinking_blocks")
    if not blocks:
        return []
    return [block for block in blocks if isinstance(block, Mapping) and block.get("type") in _KINDS]


def _thinking_text(message: Mapping[str, Any]) -> str:
    for name in _TEXTS:
        if (text := message.get(name)) and isinstance(text, str):
            return text
    return ""

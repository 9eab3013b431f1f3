"""How the events of memory and context read, and their facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshwright.core.display import Document, EventWords, short

FACTS: Mapping[str, str] = {
    "memory.*": "count tokens text_chars scope",
    "context.*": "method input_tokens output_tokens validation_passed how tokens_before tokens_after",
}


def _recalled(payload: Document, event: Document) -> Sequence[object]:
    count = payload.get("count", 0)
    return (f"{count} recalled", f"{payload.get('tokens', 0):,} tokens") if count else ("nothing to recall",)


def _stored(payload: Document, event: Document) -> Sequence[object]:
    return "stored", "scope" in payload and f"scope {payload['scope']}", short(payload.get("text", ""))


def _compressed(payload: Document, event: Document) -> Sequence[object]:
    before, after = payload.get("input_tokens", 0), payload.get("output_tokens", 0)
    return (f"{before:,} -> {after:,} tokens ({payload.get('method', '?')})",)


def _shortened(payload: Document, event: Document) -> Sequence[object]:
    before, after = payload.get("tokens_before", 0), payload.get("tokens_after", 0)
    return (f"shortened, {before:,} -> {after:,} tokens ({', '.join(payload.get('how') or [])})",)


WORDS: Mapping[str, EventWords] = {
    "memory.recalled": EventWords("memory", _recalled),
    "memory.stored": EventWords("memory", _stored),
    "context.compressed": EventWords("context", _compressed),
    "context.shortened": EventWords("context", _shortened),
}

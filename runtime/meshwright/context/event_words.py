"""How the events of memory and context read, and their facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshwright.core.display import Document, EventWords

FACTS: Mapping[str, str] = {
    "memory.*": "count tokens text_chars scope kind status trust memory_id",
    "context.*": "sender constraints known_failures questions method input_tokens output_tokens "
    "tokens ceiling calls cost_tokens saved_tokens cost_usd saved_usd validation_passed how "
    "tokens_before tokens_after",
}


def _recalled(payload: Document, event: Document) -> Sequence[object]:
    count = payload.get("count", 0)
    return (f"{count} recalled", f"{payload.get('tokens', 0):,} tokens") if count else ("nothing to recall",)


def _stored(payload: Document, event: Document) -> Sequence[object]:
    status = payload.get("status", "active")
    return "stored" if status == "active" else status, payload.get("kind"), f"scope {payload.get('scope')}"


def _compressed(payload: Document, event: Document) -> Sequence[object]:
    before, after = payload.get("input_tokens", 0), payload.get("output_tokens", 0)
    return (f"{before:,} -> {after:,} tokens ({payload.get('method', '?')})",)


def _kept(payload: Document, event: Document) -> Sequence[object]:
    cost, saved = (f"${payload[name]}" if name in payload else None for name in ("cost_usd", "saved_usd"))
    cost = cost or f"{payload.get('cost_tokens', 0):,} tokens"
    saved = saved or f"{payload.get('saved_tokens', 0):,}"
    return f"whole, {payload.get('tokens', 0):,} tokens", f"shortening costs {cost} and saves {saved}"


def _shortened(payload: Document, event: Document) -> Sequence[object]:
    before, after = payload.get("tokens_before", 0), payload.get("tokens_after", 0)
    return (f"shortened, {before:,} -> {after:,} tokens ({', '.join(payload.get('how') or [])})",)


def _received(payload: Document, event: Document) -> Sequence[object]:
    counts = (("constraints", "constraint"), ("known_failures", "failure"), ("questions", "question"))
    named = [
        f"{count} {one}{'s' if count > 1 else ''}" for name, one in counts if (count := payload.get(name, 0))
    ]
    return (f"{', '.join(named) or 'progress'} from {payload.get('sender', '?')}",)


WORDS: Mapping[str, EventWords] = {
    "memory.recalled": EventWords("memory", _recalled),
    "memory.stored": EventWords("memory", _stored),
    "context.received": EventWords("context", _received),
    "context.compressed": EventWords("context", _compressed),
    "context.kept": EventWords("context", _kept),
    "context.shortened": EventWords("context", _shortened),
}

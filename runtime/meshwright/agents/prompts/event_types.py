"""The events of prompt files."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.core.display import Document, short
from meshwright.core.payloads import Fact, Payload, declared


class PromptReloaded(Payload, type="prompt.reloaded", word="prompt"):
    name: Fact[str]
    path: str
    digest: Fact[str]

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.path or '?'} was read again",)


class PromptRejected(Payload, type="prompt.rejected prompt.fallback", word="prompt"):
    """Another prompt is used."""

    name: Fact[str]
    path: str
    line: int | None
    error: str
    remedy: str | None

    def event_line(self, event: Document) -> Sequence[object]:
        is_fallback = event["event_type"] == "prompt.fallback"
        then = "a built-in prompt takes its place" if is_fallback else "the last good prompt stays in use"
        parts = (self.error or "?", then, self.remedy)
        return ("; ".join(short(part) for part in parts if part),)


EVENTS = declared(__name__)

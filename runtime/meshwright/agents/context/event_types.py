"""The events of memories and of the context of runs."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.core.display import Document
from meshwright.core.payloads import Fact, StepPayload, declared


class MemoryRecalled(StepPayload, type="memory.recalled", word="memory"):
    count: Fact[int]
    tokens: Fact[int]

    def event_line(self, event: Document) -> Sequence[object]:
        if not self.count:
            return ("nothing to recall",)
        return f"{self.count} recalled", f"{self.tokens:,} tokens"


class MemoryStored(StepPayload, type="memory.stored", word="memory"):
    memory_id: Fact[str]
    scope: Fact[str]
    kind: Fact[str]
    status: Fact[str]
    trust: Fact[int]
    text_chars: Fact[int]

    def event_line(self, event: Document) -> Sequence[object]:
        status = "stored" if self.status in ("active", "") else self.status
        return status, self.kind, f"scope {self.scope or None}"


class RecallFailed(StepPayload, type="memory.unavailable"):
    error: str


class ContextReceived(StepPayload, type="context.received", word="context"):
    sender: Fact[str]
    constraints: Fact[int] = 0
    known_failures: Fact[int] = 0
    questions: Fact[int] = 0

    def event_line(self, event: Document) -> Sequence[object]:
        counts = (
            (self.constraints, "constraint"),
            (self.known_failures, "failure"),
            (self.questions, "question"),
        )
        parts = [f"{count} {one}{'s' if count > 1 else ''}" for count, one in counts if count]
        return (f"{', '.join(parts) or 'progress'} from {self.sender or '?'}",)


class ContextCompressed(StepPayload, type="context.compressed", word="context"):
    method: Fact[str]
    input_tokens: Fact[int]
    output_tokens: Fact[int]
    validation_passed: Fact[bool | None]
    error: str | None
    tokens: Fact[int | None] = None
    ceiling: Fact[int | None] = None
    calls: Fact[int | None] = None
    cost_tokens: Fact[int | None] = None
    saved_tokens: Fact[int | None] = None
    cost_usd: Fact[str | None] = None
    saved_usd: Fact[str | None] = None

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.input_tokens:,} -> {self.output_tokens:,} tokens ({self.method or '?'})",)


class ContextKept(StepPayload, type="context.kept", word="context"):
    """Shortening would cost more."""

    tokens: Fact[int | None] = None
    ceiling: Fact[int | None] = None
    calls: Fact[int | None] = None
    cost_tokens: Fact[int | None] = None
    saved_tokens: Fact[int | None] = None
    cost_usd: Fact[str | None] = None
    saved_usd: Fact[str | None] = None

    def event_line(self, event: Document) -> Sequence[object]:
        cost = f"${self.cost_usd}" if self.cost_usd else f"{self.cost_tokens or 0:,} tokens"
        saved = f"${self.saved_usd}" if self.saved_usd else f"{self.saved_tokens or 0:,}"
        return f"whole, {self.tokens or 0:,} tokens", f"shortening costs {cost} and saves {saved}"


class ContextLeftOut(StepPayload, type="context.left_out", word="context"):
    """Earlier messages of the thread that a run does not read: the conversation is longer than its share."""

    messages: Fact[int]

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.messages:,} earlier messages of the thread left out",)


class ContextShortened(StepPayload, type="context.shortened", word="context"):
    how: Fact[list[str]]
    messages: int
    tokens_before: Fact[int]
    tokens_after: Fact[int]
    error: str | None

    def event_line(self, event: Document) -> Sequence[object]:
        how = ", ".join(self.how)
        return (f"shortened, {self.tokens_before:,} -> {self.tokens_after:,} tokens ({how})",)


EVENTS = declared(__name__)

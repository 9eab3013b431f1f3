"""The events of the prompt registry."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import field

from meshwright.component import Fact, Payload
from meshwright.kit import Document, declared, short


class PromptRegistered(
    Payload, type="prompt.registered", word="prompt", listed="name, version, digest, author, message"
):
    name: Fact[str]
    digest: Fact[str]
    author: Fact[str]
    message: str | None
    version: Fact[int] = 0

    def event_line(self, event: Document) -> Sequence[object]:
        return f"{self.name} v{self.version} by {self.author}", short(self.message or "")


class PromptLabelled(Payload, type="prompt.labelled", word="prompt"):
    name: Fact[str]
    label: Fact[str]
    version: Fact[int]
    before: Fact[int | None] = None

    def event_line(self, event: Document) -> Sequence[object]:
        before = f", before v{self.before}" if self.before else ""
        return (f"{self.label} of {self.name} is v{self.version}{before}",)


class PromptUnlabelled(Payload, type="prompt.unlabelled", word="prompt"):
    name: Fact[str]
    label: Fact[str]
    version: Fact[int] = 0

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.name} has no {self.label} any more",)


class PromptDeleted(Payload, type="prompt.deleted", word="prompt"):
    name: Fact[str]
    version: Fact[int] = 0
    labels: Fact[dict[str, int]] = field(default_factory=dict)

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.name} is deleted",)


EVENTS = declared(__name__)

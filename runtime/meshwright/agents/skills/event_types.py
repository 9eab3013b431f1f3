"""The events of skills: those that change on disk, and those that runs are offered and read."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.core.display import Document, short
from meshwright.core.payloads import Fact, Payload, StepPayload, declared


class SkillReloaded(Payload, type="skill.reloaded", word="skill"):
    name: Fact[str]
    path: str
    digest: Fact[str]

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.path or '?'} was read again",)


class SkillRejected(Payload, type="skill.rejected", word="skill"):
    """It is not used; agents that have it go on with its last good version."""

    name: Fact[str]
    path: str
    line: int | None
    error: str
    remedy: str | None

    def event_line(self, event: Document) -> Sequence[object]:
        parts = (self.error or "?", self.remedy)
        return ("; ".join(short(part) for part in parts if part),)


class SkillsOffered(StepPayload, type="skills.offered", word="skills"):
    """The prompt of the run names them."""

    skills: Fact[dict[str, str]]
    """the digest of each"""

    def event_line(self, event: Document) -> Sequence[object]:
        return (", ".join(f"{name}@{digest}" for name, digest in self.skills.items()),)


class SkillRead(StepPayload, type="skill.read", word="skill"):
    skill: Fact[str]
    digest: Fact[str]
    """of all files of the skill"""
    file: Fact[str]
    source: str
    """`project`, or the name under which a package registers it"""

    def event_line(self, event: Document) -> Sequence[object]:
        return f"{self.skill or '?'}@{self.digest or '?'}", self.file


EVENTS = declared(__name__)

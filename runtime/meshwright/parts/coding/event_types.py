"""The events of coding agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from meshwright.component import Fact
from meshwright.core.payloads import StepPayload
from meshwright.kit import Document, declared, short


class SessionBegun(StepPayload, type="coding.session", word="coding"):
    """`how` says whether a session is new, goes on after a stop, or begins again from the tree."""

    program: Fact[str]
    agent: str
    """name and version as the program says"""
    how: Fact[Literal["new", "resumed", "restarted"]]
    session_id: str

    def event_line(self, event: Document) -> Sequence[object]:
        how = {
            "new": "begins",
            "resumed": "goes on with its session",
            "restarted": "begins again from the tree",
        }
        return (f"{self.agent or self.program} {how.get(self.how or '', '?')}",)


class CodingCall(StepPayload, type="coding.call", word="coding"):
    """A command or a change of a coding agent, within its box."""

    title: str
    kind: Fact[str]
    status: Fact[str]
    paths: list[str]
    exit_code: Fact[int | None] = None
    """of a command, where the agent says it"""

    def event_line(self, event: Document) -> Sequence[object]:
        return (
            self.kind or "call",
            short(self.title),
            self.status == "failed" and "failed",
            self.exit_code is not None and f"exit code {self.exit_code}",
            self.paths and ", ".join(self.paths[:3]),
        )


class TurnEnded(StepPayload, type="coding.turn", word="coding"):
    """A coding agent ended its turn; `reason` is the protocol's own word."""

    reason: Fact[str]
    text: str
    refused: list[str]
    """hosts that the box did not let it to"""

    def event_line(self, event: Document) -> Sequence[object]:
        hosts = self.refused and f"refused: {', '.join(self.refused[:3])}"
        return f"ended its turn ({self.reason or '?'})", short(self.text), hosts


class PermissionDecided(StepPayload, type="coding.permission", word="coding"):
    title: str
    allowed: Fact[bool]

    def event_line(self, event: Document) -> Sequence[object]:
        return ("may" if self.allowed else "may not", short(self.title))


EVENTS = declared(__name__)

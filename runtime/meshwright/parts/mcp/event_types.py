"""The events of MCP servers and of their tools."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.component import Fact, Payload
from meshwright.kit import Document, declared


class SignInChanged(Payload, type="mcp.signed_in mcp.signed_out", word="mcp"):
    server: Fact[str]

    def event_line(self, event: Document) -> Sequence[object]:
        is_in = event["event_type"] == "mcp.signed_in"
        verb = "has tokens of" if is_in else "has forgotten the tokens of"
        return (f"the mesh {verb} {self.server or '?'}",)


class ToolWithheld(Payload, type="mcp.tool_withheld", word="mcp"):
    server: Fact[str]
    tool: Fact[str]
    is_new: Fact[bool]

    def event_line(self, event: Document) -> Sequence[object]:
        why = "is new" if self.is_new else "has changed"
        return f"{self.tool or '?'} of {self.server or '?'} {why} and is withheld", "mesh inbox"


class ToolDecided(Payload, type="mcp.tool_accepted mcp.tool_refused", word="mcp"):
    server: Fact[str]
    tool: Fact[str]
    by: Fact[str]
    reason: str

    def event_line(self, event: Document) -> Sequence[object]:
        decision = event["event_type"].rpartition("_")[2]
        tool, server = self.tool or "?", self.server or "?"
        return f"{tool} of {server} is {decision} by {self.by or 'a person'}", self.reason


class ToolReleased(Payload, type="mcp.tool_released", word="mcp"):
    server: Fact[str]
    tool: Fact[str]

    def event_line(self, event: Document) -> Sequence[object]:
        tool, server = self.tool or "?", self.server or "?"
        return (f"{tool} of {server} is withheld no longer: the server has it as before, or not at all",)


EVENTS = declared(__name__)

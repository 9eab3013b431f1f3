"""A clerk that looks things up, and what its model is told of it."""

from __future__ import annotations

from meshwright import Agent, Capability, ToolFailed, tool
from meshwright.testing import ScriptedModel


class Clerk(Agent):
    """Looks things up, and can fail at it."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)
    looked_up: list[str] = []  # noqa: RUF012 each test's clerk has its own

    @tool(idempotent=True)
    async def look_up(self, word: str, page: int = 1) -> str:
        """Look a word up."""
        self.looked_up.append(word)
        if word == "nothing":
            raise ToolFailed("there is no such word")
        if word == "trouble":
            raise ValueError("the book is torn")
        return f"{word} is on page {page}"


def a_clerk() -> type[Clerk]:
    """One whose list of what it looked up is its own."""
    return type("TestClerk", (Clerk,), {"looked_up": []})


def tool_answers(model: ScriptedModel) -> list[str]:
    return [message.content for message in model.requests[-1].messages if message.role == "tool"]

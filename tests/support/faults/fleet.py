"""Agents and a model whose every call and effect is written down before anything comes of it.

The name of a task decides its shape: "plain 1", "find 2" (a tool that may be repeated), "charge 3" (one
that may not), "ask 4" (delegates, and waits), "hang 5" (until cancelled), "rest 6" (sleeps between calls).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from meshwright.agents.agent import Agent
from meshwright.agents.run.run import Run
from meshwright.agents.tools.tool import tool
from meshwright.core.capability import Capability
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest, OnDelta, ToolCall

TOOLS = {"find": "look_up", "charge": "charge", "ask": "delegate"}
MAX_CONCURRENCY = 8
REST_SECONDS = 0.2


class Ledger:
    """A file of JSON lines that survives the process: what is written is with the kernel at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, line: Any, *, durable: bool = False) -> None:
        """Add a line; `durable` survives a power cut too."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, json.dumps(line).encode() + b"\n")
            if durable:
                os.fsync(file)
        finally:
            os.close(file)

    def count(self) -> int:
        """How many lines there are."""
        return self.path.read_bytes().count(b"\n") if self.path.exists() else 0

    def read(self) -> list[Any]:
        """All lines that are whole: the last may have been cut short."""
        if not self.path.exists():
            return []
        *whole, _ = self.path.read_bytes().split(b"\n")
        return [json.loads(line) for line in whole]


class Books:
    """The ledgers of one folder."""

    def __init__(self, folder: Path) -> None:
        self._pace = folder / "allowed"
        self.accepted = Ledger(folder / "accepted.jsonl")
        """[key, task id] of each submit that returned, by the client."""
        self.cancelled = Ledger(folder / "cancelled.jsonl")
        """Task id of each cancel that returned, by the client."""
        self.told = Ledger(folder / "told.jsonl")
        """[task id, status, text] of each outcome that the client was told."""
        self.calls = Ledger(folder / "calls.jsonl")
        """[task id, attempt, step] of each call of the model."""
        self.effects = Ledger(folder / "effects.jsonl")
        """[task id, tool] of each effect that a tool had."""

    def allow(self, count: int) -> None:
        """Let a client that is paced begin so many tasks of its plan in all."""
        draft = self._pace.with_suffix(".draft")
        draft.write_text(str(count))
        draft.rename(self._pace)

    def allowed(self) -> int:
        """How many tasks a client that is paced may have begun."""
        return int(self._pace.read_text()) if self._pace.exists() else 0


Pass = Callable[[str], None]
"""Passes a point where the process may be killed."""


class Clerk(Agent):
    """Answers at once."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)
    prompt = "simple-agent"
    max_concurrency = MAX_CONCURRENCY


class Manager(Agent):
    """Has the clerk do it, and waits."""

    agent_id = "manager"
    capabilities = (Capability("managing"),)
    prompt = "simple-agent"
    delegates_to = ("clerk",)
    max_concurrency = MAX_CONCURRENCY


class Finder(Agent):
    """Has tools with effects: one that may be repeated, and one that may not."""

    agent_id = "finder"
    capabilities = (Capability("finding"),)
    prompt = "simple-agent"
    max_concurrency = MAX_CONCURRENCY
    books: ClassVar[Books]
    passes: ClassVar[Pass]

    @tool(idempotent=True)
    async def look_up(self, word: str) -> str:
        """Look a word up."""
        return self._effect(word, "look_up")

    @tool
    async def charge(self, word: str) -> str:
        """Charge a customer."""
        return self._effect(word, "charge")

    def _effect(self, word: str, name: str) -> str:
        type(self).passes(f"{name}.before")
        self.books.effects.write([word, name])
        type(self).passes(f"{name}.after")
        return f"{name} of {word}"


class Rester(Agent):
    """Asks, sleeps without its slot, and asks again."""

    agent_id = "rester"
    capabilities = (Capability("resting"),)
    prompt = "simple-agent"
    max_concurrency = MAX_CONCURRENCY

    async def run(self, run: Run) -> str | dict[str, Any]:
        await run.ask(run.task.text)
        await run.sleep(seconds=REST_SECONDS)
        return await run.ask(run.task.text)


def agents(books: Books, passes: Pass) -> list[type[Agent]]:
    """The fleet, writing into these books."""
    finder = type("BookedFinder", (Finder,), {"books": books, "passes": staticmethod(passes)})
    return [Clerk, Manager, finder, Rester]


class CountingModel:
    """Writes each call down, thinks for some milliseconds, and answers by what the task is called."""

    name = "counting"

    def __init__(
        self, books: Books, passes: Pass, *, max_seconds: float = 0.0, cost_usd: Decimal = Decimal(0)
    ) -> None:
        self._books = books
        self._passes = passes
        self._max_seconds = max_seconds
        self._cost_usd = cost_usd

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Ask for the tool of the task's shape first, and answer after that."""
        about = request.context
        self._books.calls.write([about.task_id, about.attempt, about.step])
        self._passes("model.before")
        reply = reply_to(request, self._cost_usd)
        if reply is None:
            await asyncio.Event().wait()
        await asyncio.sleep(random.uniform(0, self._max_seconds))
        self._passes("model.after")
        assert reply is not None
        return reply

    async def close(self) -> None:
        """Nothing to give back."""


def reply_to(request: ModelRequest, cost_usd: Decimal) -> ModelReply | None:
    question = next(message for message in reversed(request.messages) if message.role == "user")
    shape = question.content.partition(" ")[0]
    last = request.messages[-1]
    if shape == "hang":
        return None
    if last.role != "tool" and shape in TOOLS:
        return _call(TOOLS[shape], question, cost_usd)
    return ModelReply(content=f"answered: {last.content}", model="counting", cost_usd=cost_usd)


def _call(name: str, question: ChatMessage, cost_usd: Decimal) -> ModelReply:
    arguments = (
        {"agent_id": "clerk", "text": f"plain, for {question.content}"}
        if name == "delegate"
        else {"word": question.content}
    )
    call = ToolCall(id="call_1", name=name, arguments=json.dumps(arguments))
    return ModelReply(tool_calls=(call,), model="counting", cost_usd=cost_usd, finish_reason="tool_calls")

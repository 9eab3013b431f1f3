"""The tasks of a run, and the agents and the model that work on them.

Agents and model record each call and effect before they answer. The first word of a task's key is its shape:
"plain 1", "find 2" (an idempotent tool), "charge 3" (a tool that is not), "ask 4" (delegates, and waits),
"hang 5" (until cancelled), "rest 6" (sleeps between calls), "weave 7" (makes equal calls side by side, and
rests). Letters that not every encoding has follow in each text.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from msgspec.structs import replace

from meshwright.agents.agent import Agent
from meshwright.agents.run.run import Run
from meshwright.agents.tools.tool import tool
from meshwright.core.capability import Capability
from meshwright.core.messages import TaskRequest
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest, OnDelta, ToolCall
from meshwright.parts.proving.records import Records

AGENT_IDS = ("clerk", "manager", "finder", "rester", "weaver")
AGENTS = len(AGENT_IDS)
MAX_CONCURRENCY = 8
_TOOLS = {"find": "look_up", "charge": "charge", "ask": "delegate"}
_SHAPES = {
    **{"plain": "clerk", "find": "finder", "charge": "finder"},
    **{"ask": "manager", "rest": "rester", "weave": "weaver"},
}
_LETTERS = "é “ß” Ωж 漢字 🜚 \\ ' %s"
"""Behind each task's key in its text: letters of no single byte, and of each escape."""
_THREADS = 50
_REST_SECONDS = 0.2
_CALLS_OF_LEG = 2
_PROMPT = "You answer questions."

Answer = Callable[[ModelRequest], Awaitable[str | None]]
"""Answers a request by a real model, or not at all."""
Pass = Callable[[str], None]
"""Is called at a point where a test may kill the process."""


def pass_by(point: str) -> None:
    """Do nothing at a point."""


@dataclass(frozen=True)
class PlannedTask:
    """One task of a plan; `key` is its idempotency key."""

    key: str
    """Its shape and its number."""
    agent_id: str
    """The agent that works on it."""
    thread_id: str | None = None
    """The thread that it shares with other tasks."""
    cancel: bool = False
    """Whether the client cancels it once it has started."""
    deadline: float | None = None
    """Seconds after which it times out."""

    @property
    def text(self) -> str:
        """The text of its payload."""
        return f"{self.key} {_LETTERS}"

    @property
    def number(self) -> int:
        """Its place in the plan."""
        return int(self.key.split()[1])

    def request(self) -> TaskRequest:
        """Return the request of the task."""
        return TaskRequest(
            agent_id=self.agent_id,
            payload={"text": self.text},
            thread_id=self.thread_id,
            deadline=self.deadline,
        )


def make_plan(count: int, rng: random.Random) -> list[PlannedTask]:
    """Make tasks of every shape; a third of them share threads."""
    return [_make_item(number, rng) for number in range(count)]


def _make_item(number: int, rng: random.Random) -> PlannedTask:
    if number % 50 == 7:
        return PlannedTask(f"hang {number}", "clerk", cancel=True)
    if number % 50 == 33:
        return PlannedTask(f"hang {number}", "clerk", deadline=2.0)
    shape = rng.choice(list(_SHAPES))
    thread_id = f"thread-{rng.randrange(_THREADS)}" if rng.random() < 0.33 else None
    return PlannedTask(f"{shape} {number}", _SHAPES[shape], thread_id)


def is_published(item: PlannedTask) -> bool:
    """Whether a task of a run with a broker is published to it; workers submit the others."""
    return item.number % 2 == 0


class Clerk(Agent):
    """Answers at once."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)
    prompt_text = _PROMPT
    max_concurrency = MAX_CONCURRENCY


class Manager(Agent):
    """Delegates to the clerk, and waits."""

    agent_id = "manager"
    capabilities = (Capability("managing"),)
    prompt_text = _PROMPT
    delegates_to = ("clerk",)
    max_concurrency = MAX_CONCURRENCY


class Finder(Agent):
    """Has a tool that may be repeated, and one that may not."""

    agent_id = "finder"
    capabilities = (Capability("finding"),)
    prompt_text = _PROMPT
    max_concurrency = MAX_CONCURRENCY
    records: ClassVar[Records]
    passes: ClassVar[Pass]
    max_seconds: ClassVar[float]

    @tool(idempotent=True)
    async def look_up(self, word: str) -> str:
        """Look a word up."""
        return self._effect(word, "look_up")

    @tool
    async def charge(self, word: str) -> str:
        """Charge a customer."""
        self.records.charges.write([word, os.getpid()])
        text = self._effect(word, "charge")
        await asyncio.sleep(random.uniform(0, self.max_seconds))
        return text

    def _effect(self, word: str, name: str) -> str:
        type(self).passes(f"{name}.before")
        self.records.effects.write([word, name])
        type(self).passes(f"{name}.after")
        return f"{name} of {word}"


class Rester(Agent):
    """Calls the model, sleeps without its slot, and calls it again."""

    agent_id = "rester"
    capabilities = (Capability("resting"),)
    prompt_text = _PROMPT
    max_concurrency = MAX_CONCURRENCY
    max_seconds: ClassVar[float]

    async def run(self, run: Run) -> str | dict[str, Any]:
        """Answer twice."""
        await run.ask(run.task.text)
        await run.sleep(seconds=_REST_SECONDS + self.max_seconds)
        return await run.ask(run.task.text)


class Weaver(Agent):
    """Makes equal calls side by side, with unequal results, rests, and looks whether they stay the same."""

    agent_id = "weaver"
    capabilities = (Capability("weaving"),)
    prompt_text = _PROMPT
    max_concurrency = MAX_CONCURRENCY
    max_seconds: ClassVar[float]
    records: ClassVar[Records]

    async def run(self, run: Run) -> str | dict[str, Any]:
        """Answer with the results of both legs."""

        async def weave() -> list[str]:
            messages = [{"role": "user", "content": run.task.text}]
            return [(await run.complete(messages)).content for _ in range(_CALLS_OF_LEG)]

        async def note() -> list[list[str]]:
            return legs

        legs = [*await asyncio.gather(weave(), weave())]
        if (noted := await run.step("note", note)) != legs:
            self.records.swaps.write([run.task.task_id, noted, legs])
        await run.sleep(seconds=_REST_SECONDS + self.max_seconds)
        return f"{legs}"


def make_agents(records: Records, passes: Pass = pass_by, *, max_seconds: float = 0.0) -> list[type[Agent]]:
    """Return the agents of a run, which write these records.

    A charge takes up to `max_seconds`, and each rest so much longer.
    """
    own = {"records": records, "passes": staticmethod(passes), "max_seconds": max_seconds}
    recording = [type(f"Recording{one.__name__}", (one,), own) for one in (Finder, Rester, Weaver)]
    return [Clerk, Manager, *recording]


class CountingModel:
    """Records each call, waits some milliseconds, and answers by the shape of the task. Costs nothing."""

    name = "counting"

    def __init__(
        self,
        records: Records,
        passes: Pass = pass_by,
        *,
        max_seconds: float = 0.0,
        cost_usd: Decimal = Decimal(0),
        answer: Answer | None = None,
    ) -> None:
        """`answer` gives the text of each plain answer, or None for that of the simulation."""
        self._records = records
        self._passes = passes
        self._max_seconds = max_seconds
        self._cost_usd = cost_usd
        self._answer = answer

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Call the tool of the task's shape first, then answer."""
        about = request.context
        self._records.calls.write([about.task_id, about.attempt, about.step])
        self._passes("model.before")
        reply = _reply(request, self._cost_usd)
        if reply is None:
            await asyncio.Event().wait()
        elif self._answer is not None and request.messages[-1].content.startswith("plain"):
            text = await self._answer(request)
            reply = reply if text is None else replace(reply, content=text)
        await asyncio.sleep(random.uniform(0, self._max_seconds))
        self._passes("model.after")
        assert reply is not None
        return reply

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _reply(request: ModelRequest, cost_usd: Decimal) -> ModelReply | None:
    question = next(message for message in reversed(request.messages) if message.role == "user")
    shape = question.content.partition(" ")[0]
    last = request.messages[-1]
    if shape == "hang":
        return None
    if last.role != "tool" and shape in _TOOLS:
        return _call_tool(_TOOLS[shape], question, cost_usd)
    serial = secrets.token_hex(4) if shape == "weave" else ""
    return ModelReply(content=f"answered: {last.content}{serial}", model="counting", cost_usd=cost_usd)


def _call_tool(name: str, question: ChatMessage, cost_usd: Decimal) -> ModelReply:
    arguments = (
        {"agent_id": "clerk", "text": f"plain, for {question.content}"}
        if name == "delegate"
        else {"word": question.content}
    )
    call = ToolCall(id="call_1", name=name, arguments=json.dumps(arguments))
    return ModelReply(tool_calls=(call,), model="counting", cost_usd=cost_usd, finish_reason="tool_calls")

"""One task of many steps: what its journal and the store take as it grows, and how long a replay takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, column
from benchmarks.sides import side
from benchmarks.stand import build_stand
from meshwright.agents.agent import Agent
from meshwright.agents.tools.tool import tool
from meshwright.core.capability import Capability
from meshwright.core.messages import TaskRequest, Usage
from meshwright.engine.sql.database import Session
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ModelRequest, OnDelta, ToolCall

STEPS = 500
MAX_REPLAY_SECONDS = 0.5
MAX_GROWTH = 1.15
RESULT = "E   assert False\n" * 20
"""What a tool answers: 340 characters."""


class WorkingAgent(Agent):
    """Edits, and runs the tests."""

    agent_id = "working-agent"
    capabilities = (Capability("bench"),)
    prompt = "simple-agent"
    remembers = False

    @tool(idempotent=True)
    async def run_tests(self, number: int) -> str:
        """Run the tests."""
        return f"{number}: {RESULT}"


class Caller:
    """A model that calls a tool in each reply, up to a number of replies; it never gives the one after."""

    name = "caller"

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.called_at = 0.0
        self.calls = 0
        self.done = asyncio.Event()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.called_at = self.called_at or time.perf_counter()
        self.calls += 1
        number = sum(message.role == "tool" for message in request.messages) + 1
        if number > self.steps:
            self.done.set()
            await asyncio.Event().wait()
        call = ToolCall(id=f"call_{number}", name="run_tests", arguments=f'{{"number": {number}}}')
        usage = Usage(prompt_tokens=200 * number, completion_tokens=25)
        return ModelReply(content="", tool_calls=(call,), model=self.name, usage=usage, cost_usd=Decimal(0))

    async def close(self) -> None:
        """There is nothing to close."""


async def measure(bench: Bench) -> list[Row]:
    steps = bench.count(STEPS)

    async def grown(number: int) -> dict[str, Any]:
        """A run of so many steps, killed at its end, and the same folder's next start."""
        with bench.folder() as folder:
            arguments = {"folder": str(folder), "steps": number}
            async with side("benchmarks.long_run:work", **arguments) as running:
                result = await running.next()
            async with side("benchmarks.long_run:replay", **arguments) as running:
                return result | await running.next()

    rounds = await bench.in_turns(
        {"half": lambda: grown(steps // 2), "whole": lambda: grown(steps), "one": lambda: grown(1)}
    )
    replay = column(rounds["whole"], "replay_s", "s", 3)
    whole, half, one = (rounds[name][-1] for name in ("whole", "half", "one"))
    rows = []
    for name, what in (("journal_bytes", "journal"), ("store_bytes", "store")):
        growth = (whole[name] - one[name]) / (2 * max(1, half[name] - one[name]))
        rows.append(
            Row(
                f"{what} of a run of {steps} steps",
                f"{whole[name] / 1000:,.0f} KB",
                f"{half[name] / 1000:,.0f} KB at {steps // 2}",
                f"{growth:.2f} of twice",
                f"linear: <= {MAX_GROWTH}",
                growth <= MAX_GROWTH,
                f"a step is one call of a model and one of a tool with {len(RESULT)} characters of result; "
                "where each call's input is kept with the call, as in a Temporal history of such a loop, "
                f"{_quadratic(steps) / 1000:,.0f} KB"
                if name == "journal_bytes"
                else "",
            )
        )
    rows.append(
        Row(
            f"replay of {steps} steps",
            replay,
            column(rounds["one"], "replay_s", "s", 3),
            target=f"<= {MAX_REPLAY_SECONDS} s",
            met=replay.median <= MAX_REPLAY_SECONDS,
            note="from the start of the mesh to the next call of the model, without imports; the floor is "
            f"the same with one step; {column(rounds['whole'], 'cpu_s', 's', 3)} of CPU in all",
        )
    )
    return rows


def _quadratic(steps: int) -> int:
    """The bytes of a history that holds the messages of every call of the model."""
    return sum(number * (len(RESULT) + 120) for number in range(steps))


async def work(folder: str, steps: int) -> AsyncGenerator[dict[str, Any]]:
    """Run so many steps, and say what is stored; then it is killed."""
    model = Caller(steps)
    stand = _stand(folder, model)
    async with stand.running() as mesh:
        await mesh.get(Tasks).submit(TaskRequest(capability="bench", payload={"text": "Work."}, timeout=3600))
        await model.done.wait()
        yield {
            "journal_bytes": await stand.database.read(_journal_bytes),
            "store_bytes": (await stand.written())["bytes"],
            "calls": model.calls,
        }


async def replay(folder: str, steps: int) -> AsyncGenerator[dict[str, float]]:
    """Start on the folder that `work` left, and wait for the next call of the model."""
    model = Caller(steps)
    stand = _stand(folder, model)
    started, cpu = time.perf_counter(), time.process_time()
    async with stand.running():
        await model.done.wait()
        assert model.calls == 1, "a finished step was made again"
        yield {"replay_s": model.called_at - started, "cpu_s": time.process_time() - cpu}


def _stand(folder: str, model: Caller) -> Any:
    return build_stand(folder, model=model, agents=(WorkingAgent,), max_steps=10_000, max_repeats=10_000)


def _journal_bytes(session: Session) -> int:
    return next(session.stream("SELECT sum(length(value)) FROM records"))[0]

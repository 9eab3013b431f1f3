"""The client of OpenAI's SDK in a run: what a call costs beside the plain client, and its replay."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Any

import httpx
from openai import AsyncOpenAI

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Row, column
from benchmarks.sides import run_side, side
from benchmarks.stand import build_stand
from meshwright.agents.agent import Agent
from meshwright.agents.run.run import Run
from meshwright.core.capability import Capability
from meshwright.core.messages import TaskRequest, Usage
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ModelRequest, OnDelta

CALLS = 200
MAX_ADDED_MS = 1.0
MAX_REPLAY_SECONDS = 0.3
ANSWER = "It depends. " * 20
LAST = "the last question, which is never answered"


class AskingAgent(Agent):
    """Asks questions one after another, by the client of an SDK."""

    agent_id = "asking-agent"
    capabilities = (Capability("bench"),)
    prompt = "simple-agent"
    report: dict[str, float]

    async def run(self, run: Run) -> str:
        client = run.openai()
        await asked(client, 1)  # the first loads the modules of the SDK
        calls = int(run.task.text)
        self.report.update(await timed(partial(asked, client), calls))
        raw = await timed(partial(completed, run), calls)
        self.report.update({f"raw_{name}": value for name, value in raw.items()})
        await client.chat.completions.create(model="default", messages=[{"role": "user", "content": LAST}])
        return "done"


async def asked(client: AsyncOpenAI, count: int) -> None:
    for number in range(count):
        answer = await client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": f"Question {number} of {count}?"}]
        )
        assert answer.choices[0].message.content == ANSWER


async def completed(run: Run, count: int) -> None:
    for number in range(count):
        messages = [{"role": "user", "content": f"Raw question {number} of {count}?"}]
        assert (await run.complete(messages)).content == ANSWER


async def timed(ask: Callable[[int], Awaitable[None]], count: int) -> dict[str, float]:
    """Ask so many questions: milliseconds of the processor that a call takes, and seconds of all."""
    started = time.process_time()
    await ask(count)
    seconds = time.process_time() - started
    return {"cpu_s": seconds, "cpu_ms": seconds * 1000 / count}


class InstantModel:
    """Answers at once, but for the last question."""

    name = "instant"

    def __init__(self) -> None:
        self.calls = 0
        self.done = asyncio.Event()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.calls += 1
        if request.messages[-1].content == LAST:
            self.done.set()
            await asyncio.Event().wait()
        usage = Usage(prompt_tokens=20, completion_tokens=60)
        return ModelReply(content=ANSWER, model=self.name, usage=usage, cost_usd=Decimal(0))

    async def close(self) -> None:
        """There is nothing to close."""


async def measure(bench: Bench) -> list[Row]:
    calls = bench.count(CALLS)

    async def ours() -> dict[str, Any]:
        """A run of so many calls, killed at its end, and the same folder's next start."""
        with bench.folder() as folder:
            arguments = {"folder": str(folder), "calls": calls}
            async with side("benchmarks.clients:work", **arguments) as running:
                result = await running.next()
            async with side("benchmarks.clients:replay", **arguments) as running:
                replayed = await running.next()
            return result | {"replay_s": replayed["cpu_ms"] * calls / 1000}

    by_hand = partial(run_side, "benchmarks.clients:by_hand", calls=calls)
    rounds = await bench.in_turns({"ours": ours, "floor": by_hand})
    mine, raw = (column(rounds["ours"], name, "ms CPU", 3) for name in ("cpu_ms", "raw_cpu_ms"))
    theirs = column(rounds["floor"], "cpu_ms", "ms CPU", 3)
    each = zip(mine.values, raw.values, theirs.values, strict=True)
    added = Figure([whole - step - client for whole, step, client in each], "ms", 3)
    replay, plain = (
        column(rounds["ours"], "replay_s", "s CPU", 3),
        column(rounds["floor"], "cpu_s", "s CPU", 3),
    )
    return [
        Row(
            "a call by run.openai()",
            mine,
            theirs,
            f"+{added.median:.3f} ms",
            f"<= +{MAX_ADDED_MS} ms",
            added.median <= MAX_ADDED_MS,
            f"the floor is the same SDK, answered from memory; beside it and a step by run.complete, {raw}",
        ),
        Row(
            f"replay of {calls} calls",
            replay,
            plain,
            target=f"<= {MAX_REPLAY_SECONDS} s",
            met=replay.median <= MAX_REPLAY_SECONDS,
            note="the floor is the SDK alone",
        ),
    ]


async def work(folder: str, calls: int) -> AsyncGenerator[dict[str, float]]:
    """Make so many calls in a run; then it is killed."""
    model, report = InstantModel(), dict[str, float]()
    async with _stand(folder, model, report).running() as mesh:
        request = TaskRequest(capability="bench", payload={"text": str(calls)}, timeout=3600)
        await mesh.get(Tasks).submit(request)
        await model.done.wait()
        yield report


async def replay(folder: str, calls: int) -> AsyncGenerator[dict[str, float]]:
    """Start on the folder that `work` left, and wait for the call that had no answer."""
    model, report = InstantModel(), dict[str, float]()
    async with _stand(folder, model, report).running():
        await model.done.wait()
        assert model.calls == 1, "a finished call was made again"
        yield report


async def by_hand(calls: int) -> dict[str, float]:
    """The plain client, answered from memory."""
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    fields = {"id": "x", "object": "chat.completion", "created": 1, "model": "instant", "choices": [choice]}
    body = json.dumps(fields).encode()
    headers = {"content-type": "application/json"}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, headers=headers, content=body))
    async with httpx.AsyncClient(transport=transport) as client:
        plain = AsyncOpenAI(api_key="x", base_url="http://floor/v1", http_client=client)
        await asked(plain, 1)
        return await timed(partial(asked, plain), calls)


def _stand(folder: str, model: InstantModel, report: dict[str, float]) -> Any:
    agent = type("Asker", (AskingAgent,), {"report": report})
    return build_stand(folder, model=model, agents=(agent,))

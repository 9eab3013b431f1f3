"""Fifty children at once from one run, one of which fails: how long they take, and that no result is lost."""

from __future__ import annotations

import time

from benchmarks.bench import Bench
from benchmarks.figures import Row, column
from benchmarks.instant import InstantModel
from benchmarks.stand import build_stand
from meshwright import Agent, Capability, Delegation, Run
from meshwright.core.messages import TaskRequest
from meshwright.mesh.orchestration.tasks import Tasks

CHILDREN = 50
MODEL_SECONDS = 1.0
MAX_SECONDS = 2.0


class Child(Agent):
    """Answers with its number; number 13 fails."""

    agent_id = "child"
    capabilities = (Capability("counting"),)
    prompt = "simple-agent"
    max_concurrency = CHILDREN

    async def run(self, run: Run) -> str:
        await run.ask("Think.")
        number = run.task.payload["text"]
        if number == "13":
            raise ValueError("number 13 fails")
        return number


class Parent(Agent):
    """Asks all of them at once."""

    agent_id = "parent"
    capabilities = (Capability("bench"),)
    delegates_to = ("child",)
    prompt = "simple-agent"

    async def run(self, run: Run) -> str:
        wanted = [Delegation("child", str(number)) for number in range(CHILDREN)]
        answers = await run.delegate_all(wanted, return_exceptions=True)
        return " ".join("failed" if isinstance(answer, Exception) else answer for answer in answers)


async def measure(bench: Bench) -> list[Row]:
    rounds = (await bench.in_turns({"ours": lambda: bench.side("benchmarks.children:ours")}))["ours"]
    seconds = column(rounds, "seconds", "s", 2)
    kept = min(each["kept"] for each in rounds)
    return [
        Row(
            f"{CHILDREN} children at once from one run, one of which fails",
            seconds,
            f"{MODEL_SECONDS} s",
            f"{seconds.median / MODEL_SECONDS:.2f}",
            f"{CHILDREN - 1} results kept, in order; <= {MAX_SECONDS:.0f} s",
            kept == CHILDREN - 1 and seconds.median <= MAX_SECONDS,
            f"each child asks a model that takes {MODEL_SECONDS} s; {kept} results kept, in order",
        )
    ]


async def ours(folder: str) -> dict[str, float]:
    """One task of the parent."""
    stand = build_stand(folder, model=InstantModel(MODEL_SECONDS), agents=(Parent, Child))
    async with stand.running() as mesh:
        started = time.perf_counter()
        receipt = await mesh.get(Tasks).submit(TaskRequest(capability="bench", payload={"text": "Ask all."}))
        outcome = await mesh.get(Tasks).outcome(receipt.task_id)
        seconds = time.perf_counter() - started
    assert outcome.success, outcome
    assert outcome.result is not None
    answers = outcome.result["text"].split()
    return {"seconds": seconds, "kept": sum(answer == str(number) for number, answer in enumerate(answers))}

"""A run whose provider is away waits without a slot, and goes on at the step where it was."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, TaskRequest
from meshwright.agents.run.run import Run
from meshwright.core.events import Event
from meshwright.core.messages import Usage
from meshwright.mesh.orchestration.status import StatusReader
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.circuits import MAX_TRIES
from meshwright.models.errors import ModelRefused, ModelUnavailable, RateLimited
from meshwright.models.port import ModelReply
from meshwright.models.server import HttpModel
from meshwright.testing import ManualClock, MeshUnderTest, ScriptedModel, mesh_for
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.interrupted_mesh import kept, told_of

AWAY = RateLimited("The provider wants us to wait", retry_after_seconds=60.0)
AWAY_FOR_DAYS = RateLimited("The provider wants us to wait", retry_after_seconds=3e5)
PARKED = {"models": {"park": True}}
ATTEMPT_SECONDS = 4.0  # more than the work beside the waiting takes, on however busy a machine
SOON = {"models": {"park": True, "park_seconds": 1.0}}


class Asker(Agent):
    """Does a step, and asks its model twice."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    max_concurrency = 1
    steps = 0

    async def run(self, run: Run) -> str:
        await run.step("count", self.count)
        return f"{await run.ask('First?')} {await run.ask('Second?')}"

    async def count(self) -> int:
        type(self).steps += 1
        return self.steps


@pytest.fixture
def asker() -> type[Asker]:
    return type("TestAsker", (Asker,), {"steps": 0})


async def event_of(mesh: MeshUnderTest, event_type: str, count: int = 1) -> Event:
    async with asyncio.timeout(240):
        while len(mesh.events(event_type)) < count:
            await asyncio.sleep(0)
    return mesh.events(event_type)[count - 1]


async def test_a_run_waits_for_its_provider_and_repeats_no_step(asker: type[Asker]) -> None:
    clock = ManualClock()
    model = ScriptedModel("one", AWAY, AWAY, "two")
    async with mesh_for(asker, model=model, clock=clock, **PARKED) as mesh:
        receipt = await mesh.submit(agent_id="asker", payload={"text": "Ask."})
        waiting = await event_of(mesh, "task.waiting")
        assert (waiting.payload["kind"], waiting.payload["asked"]) == ("provider", AWAY.message)
        view = await mesh.mesh.get(Tasks).task(receipt.task_id)
        assert (view.status, [wait.kind for wait in view.waits]) == ("waiting", ["provider"])
        status = await mesh.mesh.get(StatusReader).status()
        assert [(wait.kind, wait.count, wait.reason) for wait in status.waits] == [
            ("provider", 1, AWAY.message)
        ]
        await mesh.advance(60 + 6)
        again = await event_of(mesh, "task.waiting", 2)
        assert again.payload["due_at"] > waiting.payload["due_at"]
        await mesh.advance(60 + 11)
        outcome = await mesh.outcome(receipt.task_id)
        assert (await mesh.mesh.get(StatusReader).status()).waits == ()
    assert (outcome.text, asker.steps, model.unsaid) == ("one two", 1, 0)


async def test_a_run_that_waits_holds_no_slot(asker: type[Asker]) -> None:
    model = ScriptedModel(AWAY, "one", "two")
    async with mesh_for(asker, model=model, clock=ManualClock(), **PARKED) as mesh:
        await mesh.submit(agent_id="asker", payload={"text": "Ask."})
        await event_of(mesh, "task.waiting")
        assert (await mesh.ask("asker", "Ask as well.")).text == "one two"


@pytest.mark.parametrize(
    ("error", "settings"),
    [(ModelRefused("no"), PARKED), (AWAY_FOR_DAYS, {"models": {"park": False}})],
    ids=["refused", "not parked by the settings"],
)
async def test_a_run_fails_where_waiting_does_not_help(
    asker: type[Asker], error: RateLimited, settings: dict[str, Any]
) -> None:
    async with mesh_for(asker, model=ScriptedModel(error), **settings) as mesh:
        outcome = await mesh.ask("asker", "Ask.")
    assert outcome.error is not None and outcome.error.type == error.code


@pytest.mark.parametrize("timeout", [None, 40.0], ids=["within a day", "within 40 seconds"])
async def test_a_provider_that_asks_for_days_fails_no_run(asker: type[Asker], timeout: float | None) -> None:
    asker.deadline, model = timeout, ScriptedModel(AWAY_FOR_DAYS, "one", "two")
    async with mesh_for(asker, model=model, clock=ManualClock(), **PARKED) as mesh:
        receipt = await mesh.submit(agent_id="asker", payload={"text": "Ask."})
        await event_of(mesh, "task.waiting")
        await mesh.advance(6 if timeout else 60 + 6)
        assert (await mesh.outcome(receipt.task_id)).text == "one two"


async def test_calls_side_by_side_that_hang_cost_no_time_of_the_attempt(fake: FakeProvider) -> None:
    class Many(Agent):
        agent_id = "many"
        capabilities = (Capability("asking"),)

        async def run(self, run: Run) -> str:
            said = await run.gather(*(run.ask(f"Question {n}?") for n in range(3)))
            return f"{len(said)} answers"

    fake.faults.extend(Fault(kind="hang") for _ in range(3))  # each for all of the attempt's time
    model = HttpModel(fake.url)
    settings = {"models": {"park": True, "park_seconds": 0.05}}
    async with mesh_for(Many, model=model, **settings) as mesh, asyncio.timeout(240):
        receipt = await mesh.submit(agent_id="many", payload={"text": "Ask."}, timeout=ATTEMPT_SECONDS)
        outcome = await mesh.outcome(receipt.task_id)
        assert {event.payload["kind"] for event in mesh.events("task.waiting")} == {"provider"}
        [ended] = mesh.events("attempt.ended").payloads
    await model.close()
    assert (outcome.text, outcome.attempt) == ("3 answers", 1)
    assert ended["duration_ms"] < ATTEMPT_SECONDS * 1_000 < outcome.duration_ms


async def test_a_run_that_waits_outlives_its_process(tmp_path: Path, asker: type[Asker]) -> None:
    down = [ModelUnavailable("It is away")] * MAX_TRIES
    async with kept(tmp_path, asker, model=ScriptedModel("one", *down), **SOON) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="asker", payload={"text": "Ask."}))
        await told_of(mesh, "task.waiting")
    async with kept(tmp_path, asker, model=ScriptedModel("two"), **SOON) as mesh:
        outcome = await mesh.get(Tasks).outcome(receipt.task_id)
    assert (outcome.text, asker.steps) == ("one two", 1)


class Buyer(Agent):
    """Asks its model once."""

    agent_id = "buyer"
    capabilities = (Capability("buying"),)
    max_concurrency = 5

    async def run(self, run: Run) -> str:
        return await run.ask(f"{run.task.priority}")


A_DOLLAR = {"input": 0, "output": Decimal(1_000_000) / 1024}  # a call, whose answer may have 1,024 tokens
AT_NO_TIME = "9999-01-01T00:00:00Z"
HOURLY = {"name": "pot", "limit_usd": "10", "window": "hour", "on_empty": "wait"}


async def next_try(mesh: MeshUnderTest, clock: ManualClock) -> float:
    """Wait until each of forty tasks has ended or waits; returns the seconds until the first tries again."""
    due: dict[str | None, datetime] = {}
    async with asyncio.timeout(240):
        while len(due) < 40 or min(due.values()) <= clock.now():
            await asyncio.sleep(0.001)
            due = {
                event.task_id: datetime.fromisoformat(event.payload.get("due_at") or AT_NO_TIME)
                for event in mesh.events()
                if event.event_type in ("task.waiting", "task.succeeded")
            }
    return (min(due.values()) - clock.now()).total_seconds()


async def pass_seconds(mesh: MeshUnderTest, clock: ManualClock, seconds: float) -> None:
    """Move the clock from try to try: it stands still while a task tries."""
    until = clock.monotonic() + seconds
    while clock.monotonic() + (pause := await next_try(mesh, clock)) <= until:
        await mesh.advance(pause)
    await mesh.advance(until - clock.monotonic())


@pytest.mark.far("forty tasks wait for an hour")
async def test_of_forty_tasks_that_wait_for_an_hour_the_most_urgent_go_on_first(rng: random.Random) -> None:
    reply = ModelReply(content="Bought.", model="m", usage=Usage(completion_tokens=1024))
    model, clock = ScriptedModel(*[reply] * 20), ManualClock()
    ledger = {"budgets": [HOURLY], "default_price": A_DOLLAR}
    async with mesh_for(Buyer, model=model, clock=clock, ledger=ledger) as mesh:
        priorities = [rng.randint(1, 10) for _ in range(40)]
        for priority in priorities:
            await mesh.submit(agent_id="buyer", payload={"text": "Buy."}, priority=priority)
        await pass_seconds(mesh, clock, 3598)
        first = [int(request.messages[-1].content) for request in model.requests]
        assert len(first) == 10
        await pass_seconds(mesh, clock, 8)
        left = sorted((Counter(priorities) - Counter(first)).elements(), reverse=True)
        bought = [int(request.messages[-1].content) for request in model.requests[10:]]
        assert sorted(bought, reverse=True) == left[:10]
        assert len(mesh.events("task.waiting")) < 40 * 12, "tasks that wait do not try again and again"

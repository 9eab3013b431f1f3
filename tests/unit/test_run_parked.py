"""A run whose provider is away waits without a slot, and goes on at the step where it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, TaskRequest
from meshwright.core.messages import Event
from meshwright.models.errors import ModelRefused, ModelUnavailable, RateLimited
from meshwright.models.retry import MAX_TRIES
from meshwright.run import Run
from meshwright.testing import ManualClock, MeshUnderTest, ScriptedModel, mesh_for
from tests.support.interrupted_mesh import kept, told_of

AWAY = RateLimited("The provider wants us to wait", retry_after_seconds=60.0)
AWAY_FOR_DAYS = RateLimited("The provider wants us to wait", retry_after_seconds=3e5)
PARKED = {"models": {"park": True}}
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
    async with asyncio.timeout(10):
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
        view = await mesh.mesh.task(receipt.task_id)
        assert (view.status, [wait.kind for wait in view.waits]) == ("waiting", ["provider"])
        status = await mesh.mesh.status()
        assert [(wait.kind, wait.count, wait.reason) for wait in status.waits] == [
            ("provider", 1, AWAY.message)
        ]
        await mesh.advance(60 + 6)
        again = await event_of(mesh, "task.waiting", 2)
        assert again.payload["due_at"] > waiting.payload["due_at"]
        await mesh.advance(60 + 11)
        outcome = await mesh.outcome(receipt.task_id)
        assert (await mesh.mesh.status()).waits == ()
    assert (outcome.text, asker.steps, model.unsaid) == ("one two", 1, 0)


async def test_a_run_that_waits_holds_no_slot(asker: type[Asker]) -> None:
    model = ScriptedModel(AWAY, "one", "two")
    async with mesh_for(asker, model=model, clock=ManualClock(), **PARKED) as mesh:
        await mesh.submit(agent_id="asker", payload={"text": "Ask."})
        await event_of(mesh, "task.waiting")
        assert (await mesh.ask("asker", "Ask as well.")).text == "one two"


@pytest.mark.parametrize(
    ("error", "settings"),
    [(AWAY_FOR_DAYS, PARKED), (ModelRefused("no"), PARKED), (AWAY_FOR_DAYS, {"models": {"park": False}})],
    ids=["beyond its deadline", "refused", "not parked by the settings"],
)
async def test_a_run_fails_where_waiting_does_not_help(
    asker: type[Asker], error: RateLimited, settings: dict[str, Any]
) -> None:
    async with mesh_for(asker, model=ScriptedModel(error), **settings) as mesh:
        outcome = await mesh.ask("asker", "Ask.")
    assert outcome.error is not None and outcome.error.type == error.code


async def test_a_run_that_waits_outlives_its_process(tmp_path: Path, asker: type[Asker]) -> None:
    down = [ModelUnavailable("It is away")] * MAX_TRIES
    async with kept(tmp_path, asker, model=ScriptedModel("one", *down), **SOON) as mesh:
        receipt = await mesh.submit(TaskRequest(agent_id="asker", payload={"text": "Ask."}))
        await told_of(mesh, "task.waiting")
    async with kept(tmp_path, asker, model=ScriptedModel("two"), **SOON) as mesh:
        outcome = await mesh.outcome(receipt.task_id)
    assert (outcome.text, asker.steps) == ("one two", 1)

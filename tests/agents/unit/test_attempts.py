"""Attempts that end before their work does: cancelled, timed out, or by an error of the agent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.agents.run.run import Run
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import mesh_for


def holding(agent: str = "holder", **fields: Any) -> tuple[type[Agent], asyncio.Event, asyncio.Event]:
    """An agent that hangs in its run; tells when it began, and when it was told to stop."""
    began, stopped = asyncio.Event(), asyncio.Event()

    async def run(self: Agent, run: Run) -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            raise
        return "never"

    given = {"agent_id": agent, "capabilities": (Capability("holding"),), "run": run, **fields}
    return type("Holder", (Agent,), given), began, stopped


async def test_a_cancelled_run_is_stopped_and_its_thread_goes_on() -> None:
    holder, began, stopped = holding()
    async with mesh_for(holder) as mesh:
        receipt = await mesh.submit(agent_id="holder", payload={"text": "Hold."}, thread_id="one")
        await began.wait()
        await mesh.mesh.get(Tasks).cancel(receipt.task_id)
        outcome = await mesh.outcome(receipt.task_id)
        assert stopped.is_set()
        began.clear()
        await mesh.submit(agent_id="holder", payload={"text": "Again."}, thread_id="one")
        await began.wait()
        await mesh.mesh.stop(drain_seconds=0)
    assert (outcome.status, outcome.success) == ("cancelled", False)
    assert outcome.error is not None


def raising(error: BaseException) -> type[Agent]:
    class Raising(Agent):
        agent_id = "raising"
        capabilities = (Capability("raising"),)

        async def run(self, run: Run) -> str:
            if run.task.text == "raise":
                raise error
            return "fine"

    return Raising


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of range"),
        TimeoutError("the other server took too long"),
        asyncio.CancelledError("a task of its own"),
        SystemExit(3),
    ],
)
async def test_whatever_an_agents_code_raises_is_the_outcome_of_its_attempt(error: BaseException) -> None:
    async with mesh_for(raising(error)) as mesh:
        outcome = await mesh.ask("raising", "raise", thread_id="one")
        assert (await mesh.ask("raising", "go on", thread_id="one")).text == "fine"
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.type == type(error).__name__
    assert outcome.error.message.startswith(f"{error} (unit/test_attempts.py:")

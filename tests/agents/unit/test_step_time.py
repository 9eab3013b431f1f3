"""The time of a step, and the deadline of a task: who sets them, and what happens when they pass."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshwright import Agent, Capability, tool
from meshwright.agents.run.run import Run
from meshwright.core.errors import ConfigError
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ToolCall
from meshwright.testing import ScriptedModel, mesh_for

LONG_SECONDS, STEPS = 0.25, 8


class Worker(Agent):
    """Works in steps, or hangs after the first."""

    agent_id = "worker"
    capabilities = (Capability("work"),)

    async def run(self, run: Run) -> str:
        await run.step("first", self.work)
        if run.task.text == "hang":
            await run.step("second", asyncio.Event().wait)
        if run.task.text == "hang between":
            await asyncio.Event().wait()
        for number in range(2, STEPS):
            await run.step(f"step {number}", self.work)
        return "done"

    async def work(self) -> None:
        await asyncio.sleep(LONG_SECONDS)


@pytest.mark.parametrize(
    ("text", "said"),
    [("hang", "step 'second' did not end"), ("hang between", "the agent's code began and ended no step")],
)
async def test_a_run_that_hangs_times_out_and_keeps_its_finished_steps(text: str, said: str) -> None:
    async with mesh_for(Worker) as mesh:
        receipt = await mesh.submit(agent_id="worker", payload={"text": text}, timeout=2 * LONG_SECONDS)
        outcome = await mesh.outcome(receipt.task_id)
        [transcript] = await mesh.mesh.get(Tasks).transcripts(receipt.task_id)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.type) == ("timed_out", "TaskTimeout")
    assert outcome.error.message.startswith(f"{said} within 0.5 seconds. Raise the timeout of the task")
    steps = [transcript.summary(path) for path in transcript.paths]
    assert "first" in [step.name for step in steps if step.status == "done"]


@pytest.mark.parametrize(
    ("of_agent", "setting"), [(0.1, "the timeout of Own"), (None, "timeout_seconds in [agents] of mesh.toml")]
)
async def test_agent_and_settings_say_how_long_a_step_may_take(of_agent: float | None, setting: str) -> None:
    class Own(Agent):
        agent_id = "own"
        capabilities = (Capability("work"),)
        timeout = of_agent

        async def run(self, run: Run) -> str:
            await asyncio.Event().wait()
            return "never"

    async with mesh_for(Own, agents={"timeout_seconds": 0.2}) as mesh:
        receipt = await mesh.submit(agent_id="own", payload={"text": "Hang."})
        outcome = await mesh.outcome(receipt.task_id)
        assert (await mesh.mesh.get(Tasks).task(receipt.task_id)).timeout == (of_agent or 0.2)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.type) == ("timed_out", "Timeout")
    assert f"Raise {setting}" in outcome.error.message


async def test_a_tool_that_takes_longer_than_a_step_may_is_an_error_for_the_model() -> None:
    class User(Agent):
        agent_id = "user"
        capabilities = (Capability("work"),)

        @tool(idempotent=True)
        async def doze(self) -> str:
            "Sleep."
            await asyncio.Event().wait()
            return "never"

    model = ScriptedModel(
        ModelReply(model="m", tool_calls=(ToolCall(id="1", name="doze", arguments="{}"),)), "ok"
    )
    async with mesh_for(User, model=model) as mesh:
        receipt = await mesh.submit(agent_id="user", payload={"text": "Doze."}, timeout=0.5)
        outcome = await mesh.outcome(receipt.task_id)
    assert outcome.text == "ok"
    assert "doze did not end within 0.5 seconds" in str(model.requests[-1].messages[-1].content)


@pytest.mark.parametrize(("of_agent", "of_task", "seconds"), [(None, None, 50), (30, None, 30), (30, 70, 70)])
async def test_settings_agent_and_task_say_how_long_a_task_may_take(
    of_agent: float | None, of_task: float | None, seconds: float
) -> None:
    class Own(Agent):
        agent_id = "own"
        capabilities = (Capability("work"),)
        deadline = of_agent

        async def run(self, run: Run) -> str:
            return "done"

    async with mesh_for(Own, agents={"deadline_seconds": 50}) as mesh:
        receipt = await mesh.submit(agent_id="own", payload={"text": "Work."}, deadline=of_task)
        task = await mesh.mesh.get(Tasks).task(receipt.task_id)
    assert (task.deadline_at - task.created_at).total_seconds() == seconds


@pytest.mark.parametrize("fields", [{"timeout": 0}, {"timeout": "1 min"}, {"deadline": 1e9}])
def test_an_agent_with_an_impossible_time_is_refused(fields: dict[str, Any]) -> None:
    [name] = fields
    given = {"agent_id": "own", "capabilities": (Capability("work"),), **fields}
    with pytest.raises(ConfigError, match=f"has the {name}"):
        type("Own", (Agent,), given)

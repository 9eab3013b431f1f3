"""Code of an agent that calls its own tools, and says which state its work is in."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright import Agent, Capability, Run, ToolFailed, tool
from meshwright.engine.stores.memory import Faults
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import MeshUnderTest, mesh_for


class Deployer(Agent):
    """Deploys by code alone."""

    agent_id = "deployer"
    capabilities = (Capability("deployments"),)
    prompt_text = "You deploy."

    @tool(needs_approval=True)
    async def deploy(self, version: str) -> str:
        """Deploy a version."""
        if version == "0":
            raise ToolFailed("there is no version 0")
        return f"{version} runs" + " on" * 20_000

    async def run(self, run: Run) -> dict[str, Any]:
        await run.state("CHECKING", "password = hunter2hunter2")
        tool_name, version = run.task.payload["tool"], run.task.payload["version"]
        try:
            done = await run.call(tool_name, version=version)
        except ToolFailed as error:
            await run.state("FAILED", str(error))
            return {"error": str(error)}
        await run.state("DEPLOYED")
        return {"version": done[0], "chars": len(done)}


async def ended(mesh: MeshUnderTest, *answers: Any, tool: str = "deploy", version: Any = "1") -> Any:
    receipt = await mesh.submit(agent_id="deployer", payload={"tool": tool, "version": version})
    for answer in answers:
        [question] = await mesh.questions()
        assert (question.subject["tool"], question.subject["arguments"]) == ("deploy", {"version": version})
        await mesh.answer(question, answer)
    outcome = await mesh.outcome(receipt.task_id)
    view = await mesh.mesh.get(Tasks).task(receipt.task_id)
    return outcome, view.state, mesh.events(task_id=receipt.task_id)


async def test_code_calls_a_tool_with_its_approval_and_gets_all_of_the_result() -> None:
    async with mesh_for(Deployer) as mesh:
        outcome, state, events = await ended(mesh, {"approve": True})
        assert (outcome.result, state) == ({"version": "1", "chars": 60_006}, "DEPLOYED")
        assert [event.payload["tool"] for event in events if event.event_type == "tool.called"] == ["deploy"]
        states = [event.payload for event in events if event.event_type == "run.state"]
        assert [said["state"] for said in states] == ["CHECKING", "DEPLOYED"]
        assert "hunter2" not in str(states)


@pytest.mark.parametrize(
    ("answers", "version", "problem"),
    [
        (({"approve": False, "reason": "not today"},), "1", "not today"),
        (({"approve": True},), "0", "there is no version 0"),
        ((), 1, "version"),
    ],
)
async def test_code_learns_why_a_call_failed(answers: Any, version: Any, problem: str) -> None:
    async with mesh_for(Deployer) as mesh:
        outcome, state, _ = await ended(mesh, *answers, version=version)
        assert problem in outcome.result["error"]
        assert state == "FAILED"


async def test_code_that_calls_a_tool_it_does_not_have_fails_with_the_names_of_those_it_has() -> None:
    async with mesh_for(Deployer) as mesh:
        outcome, state, _ = await ended(mesh, tool="destroy")
        assert outcome.error.type == "AgentError"
        assert "has no tool 'destroy'" in outcome.error.message
        assert "Call one of deploy" in outcome.error.message
        assert state == "CHECKING"


async def test_a_run_that_begins_again_repeats_neither_calls_nor_states() -> None:
    async with mesh_for(Deployer, faults=Faults(restart=0.5)) as mesh:
        outcome, state, events = await ended(mesh, {"approve": True})
        assert (outcome.result["version"], state) == ("1", "DEPLOYED")
        names = [event.event_type for event in events]
        assert (names.count("tool.called"), names.count("run.state")) == (1, 2)

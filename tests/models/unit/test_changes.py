"""Changes that a failed attempt has made: the agent that takes over learns of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshwright import Agent, Capability, TaskRequest, tool
from meshwright.agents.run.run import Run
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ModelRefused
from meshwright.models.port import ModelRequest
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import kept

DEPLOY = tool_call("deploy", version="1.4", password="hunter2222")
REFUSED = ModelRefused("no")


class First(Agent):
    """Deploys, and fails then."""

    agent_id = "first"
    capabilities = (Capability("deploying", preferred=True),)
    delegates_to = ("helper",)
    began: ClassVar[asyncio.Event]
    opened: ClassVar[asyncio.Event]

    @tool
    async def deploy(self, version: str, password: str = "") -> str:
        """Deploy a version."""
        return f"{version} runs"

    @tool
    async def restart(self) -> str:
        """Restart it, in the time that a test takes."""
        self.began.set()
        await self.opened.wait()
        return "restarted"

    @tool(effect="read")
    async def look(self) -> str:
        """Look at it."""
        return "1.3 runs"

    @tool(effect="read", origin="outside", idempotent=True)
    async def logs(self) -> str:
        """Read logs."""
        return "somebody wrote this"


class Second(First):
    """Takes over."""

    agent_id = "second"
    capabilities = (Capability("deploying", weight=0.5),)
    delegates_to = ()


class Coded(Agent):
    """Takes over in code."""

    agent_id = "coded"
    capabilities = (Capability("deploying", weight=0.5),)

    async def run(self, run: Run) -> str:
        return f"{[(one.tool, one.result, one.is_certain) for one in await run.changes()]}"


class Helper(First):
    """Deploys for another agent."""

    agent_id = "helper"
    capabilities = (Capability("helping"),)
    delegates_to = ()


class Switch(Agent):
    """Turns a switch, and never gets to know that it has."""

    agent_id = "switch"
    capabilities = (Capability("switching"),)
    began: ClassVar[asyncio.Event]
    turned: ClassVar[int] = 0

    @tool(idempotent=True, needs_approval=True, preview="effect")
    async def turn(self) -> str:
        """Turn it."""
        Switch.turned += 1
        self.began.set()
        await asyncio.Event().wait()
        return "on"

    async def effect(self) -> str:
        return f"turns it after {self.turned} times"

    @tool
    async def press(self) -> str:
        """Press it."""
        return await self.turn()


def known(request: ModelRequest) -> list[str]:
    """The messages before the question; none of them is of the system but the first."""
    assert [message.role for message in request.messages[1:]] == ["user"] * (len(request.messages) - 1)
    assert "deploy(" not in request.messages[0].content
    return [message.content for message in request.messages[1:-1]]


async def last_request(*replies: Any, helper: tuple[Any, ...] = (), **settings: Any) -> ModelRequest:
    """The last request of the second agent, once the first has failed."""
    model = ScriptedModel()
    model.replies(*replies, REFUSED, to="first")
    model.replies(*helper, to="helper")
    model.replies("Done.", to="second")
    async with mesh_for(First, Second, Helper, model=model, **settings) as mesh:
        receipt = await mesh.submit(capability="deploying", payload={"text": "Deploy 1.4."})
        outcome = await mesh.outcome(receipt.task_id)
        assert (outcome.agent_id, outcome.attempt) == ("second", 2)
    return model.requests[-1]


async def test_the_agent_that_takes_over_is_told_what_was_changed() -> None:
    [told] = known(await last_request(tool_call("look"), DEPLOY))
    assert told.startswith("Earlier attempts at this task failed after they had changed something.")
    assert 'attempt 1 by first: deploy({"version": "1.4", ' in told and told.endswith("-> 1.4 runs")
    assert "look" not in told and "hunter" not in told


async def test_an_attempt_that_changed_nothing_says_nothing() -> None:
    assert known(await last_request(tool_call("look"))) == []
    assert known(await last_request(tool_call("deploy"))) == []  # its arguments do not fit: it did not run


async def test_a_change_of_a_delegate_is_told() -> None:
    asked = tool_call("delegate", agent_id="helper", text="Deploy 1.4.")
    [told] = known(await last_request(asked, helper=(DEPLOY, "It runs.")))
    assert "attempt 1 by first: delegate(helper, task " in told and told.endswith("-> succeeded")


async def test_changes_of_a_run_that_read_from_outside_need_an_approval_of_the_next() -> None:
    model = ScriptedModel()
    model.replies(DEPLOY, tool_call("logs"), REFUSED, to="first")
    model.replies(DEPLOY, "Done.", to="second")
    async with mesh_for(First, Second, Helper, model=model) as mesh:
        receipt = await mesh.submit(capability="deploying", payload={"text": "Deploy 1.4."})
        [question] = await mesh.questions()
        assert question.agent_id == "second" and "strangers may have written" in question.question
        await mesh.answer(question, {"approve": False})
        assert (await mesh.outcome(receipt.task_id)).outside


@pytest.mark.parametrize(
    ("answer", "result"),
    [({"approve": False, "result": "half of it"}, "half of it"), ({"approve": True}, "restarted")],
)
async def test_a_change_that_was_interrupted_is_told_as_such(
    tmp_path: Path, answer: dict[str, Any], result: str
) -> None:
    First.began, First.opened = asyncio.Event(), asyncio.Event()
    request = TaskRequest(capability="deploying", payload={"text": "Deploy 1.4."})
    model = ScriptedModel()
    model.replies(DEPLOY, tool_call("restart"), to="first")
    async with kept(tmp_path, First, Coded, Helper, model=model) as mesh:
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        await First.began.wait()
    First.opened.set()
    model = ScriptedModel()
    model.replies(REFUSED, to="first")
    async with kept(tmp_path, First, Coded, Helper, model=model) as mesh:
        await mesh.get(Tasks).answer(task_id, await wait_of(mesh, task_id), answer)
        outcome = await mesh.get(Tasks).outcome(task_id)
    is_certain = answer["approve"]
    assert outcome.text == f"{[('deploy', '1.4 runs', True), ('restart', result, is_certain)]}"


async def wait_of(mesh: Mesh, task_id: str) -> str:
    """The wait of a task, once it has one."""
    while not (waits := (await mesh.get(Tasks).task(task_id)).waits):
        await asyncio.sleep(0.01)
    return waits[0].wait_id


@pytest.mark.parametrize("name", ["turn", "press"])
async def test_a_change_that_is_not_repeated_after_a_death_may_have_taken_effect(
    tmp_path: Path, name: str
) -> None:
    """The effect of `turn` is another by then; of `press` a person says so."""
    Switch.began, Switch.turned = asyncio.Event(), 0
    request = TaskRequest(capability="switching", payload={"text": "Turn it."})
    async with kept(tmp_path, Switch, model=ScriptedModel(tool_call(name))) as mesh:
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        if name == "turn":
            await mesh.get(Tasks).answer(task_id, await wait_of(mesh, task_id), {"approve": True})
        await Switch.began.wait()
    model = ScriptedModel("Done.")
    async with kept(tmp_path, Switch, model=model) as mesh:
        if name == "press":
            await mesh.get(Tasks).answer(task_id, await wait_of(mesh, task_id), {"approve": False})
        outcome = await mesh.get(Tasks).outcome(task_id)
    assert (outcome.text, outcome.changed, Switch.turned) == ("Done.", True, 1)
    assert "may have taken effect" in model.requests[-1].messages[-1].content


@pytest.mark.parametrize("cancelled", ["as it waits", "in the middle of a change"])
async def test_the_outcome_of_a_cancelled_task_says_that_it_changed_something(cancelled: str) -> None:
    First.began, First.opened = asyncio.Event(), asyncio.Event()
    replies = [tool_call("restart")] if cancelled != "as it waits" else [DEPLOY, tool_call("logs"), DEPLOY]
    async with mesh_for(First, Helper, model=ScriptedModel(*replies)) as mesh:
        receipt = await mesh.submit(agent_id="first", payload={"text": "Deploy 1.4."})
        await (First.began.wait() if cancelled != "as it waits" else mesh.questions())
        await mesh.mesh.get(Tasks).cancel(receipt.task_id)
        outcome = await mesh.outcome(receipt.task_id)
    assert (outcome.status, outcome.changed) == ("cancelled", True)


async def test_an_outcome_says_that_a_delegate_changed_something() -> None:
    model = ScriptedModel()
    model.replies(tool_call("delegate", agent_id="helper", text="Deploy 1.4."), "Done.", "Hello.", to="first")
    model.replies(DEPLOY, "It runs.", to="helper")
    async with mesh_for(First, Helper, model=model) as mesh:
        assert (await mesh.ask("first", "Deploy 1.4.")).changed
        assert not (await mesh.ask("first", "Hello?")).changed

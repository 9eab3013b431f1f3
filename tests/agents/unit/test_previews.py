"""Previews of tools: the effect of a call, which those who approve see, and which binds the approval."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshwright import Agent, Capability, TaskRequest, ToolFailed, tool
from meshwright.agents.tools.tool import Unchanged
from meshwright.core.errors import ConfigError
from meshwright.engine.events.inbox import Question
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for, tool_call
from meshwright.tools import collect_tools
from tests.support.interrupted_mesh import kept
from tests.support.lookup_agent import tool_answers

SCALE = tool_call("scale", replicas=3)
KEY = "password = '{}'"


class Cluster(Agent):
    """Scales what runs somewhere else."""

    agent_id = "cluster"
    capabilities = (Capability("scaling"),)
    replicas: ClassVar[Any] = 1
    scaled: ClassVar[list[int]] = []
    previews: ClassVar[int] = 0

    @tool(needs_approval=True, idempotent=True, preview="_plan")
    async def scale(self, replicas: int) -> str:
        """Scale it."""
        Cluster.replicas = replicas
        self.scaled.append(replicas)
        return f"{replicas} run"

    async def _plan(self, replicas: int) -> Any:
        Cluster.previews += 1
        if self.replicas == "away":
            raise ToolFailed("the cluster does not answer")
        return {"replicas": [self.replicas, replicas]} if self.replicas != "long" else "x" * 40_000


@pytest.fixture(autouse=True)
def cluster() -> None:
    Cluster.replicas, Cluster.scaled, Cluster.previews = 1, [], 0


async def began(mesh: MeshUnderTest) -> str:
    return (await mesh.submit(agent_id="cluster", payload={"text": "Scale it."})).task_id


async def only_question(mesh: MeshUnderTest) -> Question:
    [question] = await mesh.questions()
    return question


async def test_an_approval_shows_the_effect() -> None:
    async with mesh_for(Cluster, model=ScriptedModel(SCALE, "Done.")) as mesh:
        task_id = await began(mesh)
        question = await only_question(mesh)
        assert question.subject["effect"] == {"replicas": [1, 3]}
        assert '"replicas": [' in question.question.partition("May it?\nIts effect:\n")[2]
        await mesh.answer(question, {"approve": True})
        assert (await mesh.outcome(task_id)).success
    assert (Cluster.scaled, Cluster.previews) == ([3], 2)


async def test_a_yes_to_another_effect_runs_nothing_and_the_model_may_ask_again() -> None:
    model = ScriptedModel(SCALE, SCALE, "Done.")
    async with mesh_for(Cluster, model=model) as mesh:
        task_id = await began(mesh)
        question = await only_question(mesh)
        Cluster.replicas = 2  # somebody else was quicker
        await mesh.answer(question, {"approve": True})
        while (again := await only_question(mesh)).wait_id == question.wait_id:
            await asyncio.sleep(0.01)
        assert Cluster.scaled == [] and "its effect is another than was approved" in tool_answers(model)[0]
        assert again.subject["effect"] == {"replicas": [2, 3]}
        await mesh.answer(again, {"approve": True})
        assert (await mesh.outcome(task_id)).success
    assert Cluster.scaled == [3]


@pytest.mark.parametrize(
    ("state", "told"), [("away", "the cluster does not answer"), ("long", "40,000 characters, and only")]
)
async def test_nobody_is_asked_about_an_effect_that_cannot_be_shown(state: str, told: str) -> None:
    Cluster.replicas = state
    model = ScriptedModel(SCALE, "I could not.")
    async with mesh_for(Cluster, model=model) as mesh:
        assert (await mesh.ask("cluster", "Scale it.")).text == "I could not."
        assert not mesh.events("task.waiting")
    assert told in tool_answers(model)[0] and Cluster.scaled == []


async def test_wrong_arguments_are_told_once() -> None:
    model = ScriptedModel(tool_call("scale", replicas="three"), "I could not.")
    async with mesh_for(Cluster, model=model) as mesh:
        assert (await mesh.ask("cluster", "Scale it.")).text == "I could not."
    assert tool_answers(model)[0].count("was not run") == 1 and Cluster.previews == 0


async def test_a_secret_in_an_effect_is_hidden_and_bound() -> None:
    Cluster.replicas = KEY.format("hunter2222")
    async with mesh_for(Cluster, model=ScriptedModel(SCALE, "I could not.")) as mesh:
        task_id = await began(mesh)
        question = await only_question(mesh)
        assert "hunter" not in f"{question.subject}{question.question}"
        Cluster.replicas = KEY.format("hunter3333")
        await mesh.answer(question, {"approve": True})
        await mesh.outcome(task_id)
    assert Cluster.scaled == []


async def test_a_call_that_needs_no_approval_is_not_previewed() -> None:
    rules = {"rules": [{"tool": "scale", "ask": "never"}]}
    async with mesh_for(Cluster, model=ScriptedModel(SCALE, "Done."), approvals=rules) as mesh:
        assert (await mesh.ask("cluster", "Scale it.")).success
    assert (Cluster.scaled, Cluster.previews) == ([3], 0)


async def test_once_shows_the_effect_of_the_first_call() -> None:
    rules = {"rules": [{"tool": "scale", "ask": "once"}]}
    model = ScriptedModel(SCALE, tool_call("scale", replicas=4), "Done.")
    async with mesh_for(Cluster, model=model, approvals=rules) as mesh:
        task_id = await began(mesh)
        await mesh.answer(await only_question(mesh), {"approve": True})
        assert (await mesh.outcome(task_id)).success
    assert (Cluster.scaled, Cluster.previews) == ([3, 4], 2)


async def wait_of(mesh: Mesh, task_id: str) -> Any:
    while not (waits := (await mesh.get(Tasks).task(task_id)).waits):
        await asyncio.sleep(0.01)
    [wait] = waits
    return wait


@pytest.mark.parametrize("replicas", [1, 2])
async def test_an_effect_that_was_shown_binds_through_a_restart(tmp_path: Path, replicas: int) -> None:
    request = TaskRequest(agent_id="cluster", payload={"text": "Scale it."})
    async with kept(tmp_path, Cluster, model=ScriptedModel(SCALE)) as mesh:
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        asked = await wait_of(mesh, task_id)
    Cluster.replicas = replicas
    async with kept(tmp_path, Cluster, model=ScriptedModel("Done.")) as mesh:
        wait = await wait_of(mesh, task_id)
        assert (wait.wait_id, wait.subject["effect"]) == (asked.wait_id, {"replicas": [1, 3]})
        await mesh.get(Tasks).answer(task_id, wait.wait_id, {"approve": True})
        assert (await mesh.get(Tasks).outcome(task_id)).success
    assert Cluster.scaled == ([3] if replicas == 1 else [])


class Slow(Cluster):
    """Its changes take a while."""

    begun: ClassVar[asyncio.Event]

    @tool(needs_approval=True, idempotent=True, preview="_plan")
    async def scale(self, replicas: int) -> str:
        """Scale it."""
        await super().scale(replicas)
        if not self.begun.is_set():
            self.begun.set()
            await asyncio.Event().wait()
        return f"{replicas} run"

    async def _plan(self, replicas: int) -> Any:
        return Unchanged() if self.replicas == replicas else await super()._plan(replicas)


@pytest.mark.parametrize(("since", "times"), [(3, 2), (2, 1)], ids=["as it was left", "changed since"])
async def test_a_change_that_was_made_before_the_process_died_is_done(
    tmp_path: Path, since: int, times: int
) -> None:
    slow = type("Slow", (Slow,), {"begun": asyncio.Event(), "__doc__": Slow.__doc__})
    request = TaskRequest(agent_id="cluster", payload={"text": "Scale it."})
    async with kept(tmp_path, slow, model=ScriptedModel(SCALE)) as mesh:
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        wait = await wait_of(mesh, task_id)
        await mesh.get(Tasks).answer(task_id, wait.wait_id, {"approve": True})
        await slow.begun.wait()
    Cluster.replicas = since
    model = ScriptedModel("Done.")
    async with kept(tmp_path, slow, model=model) as mesh:
        assert (await mesh.get(Tasks).outcome(task_id)).success
    told = "3 run" if times == 2 else "its effect is another than was approved"
    assert told in tool_answers(model)[0]
    assert Cluster.scaled == [3] * times


async def test_a_change_that_somebody_else_has_made_meanwhile_is_run_again_only_where_that_does_no_harm() -> (
    None
):
    model = ScriptedModel(SCALE, "Done.")

    class Careless(Cluster):
        """Adds to what there is."""

        @tool(needs_approval=True, preview="_plan")
        async def scale(self, replicas: int) -> str:
            """Scale it."""
            return await super().scale(replicas)

        async def _plan(self, replicas: int) -> Any:
            return Unchanged() if self.replicas == replicas else await super()._plan(replicas)

    async with mesh_for(Careless, model=model) as mesh:
        task_id = await began(mesh)
        question = await only_question(mesh)
        Cluster.replicas = 3
        await mesh.answer(question, {"approve": True})
        assert (await mesh.outcome(task_id)).success
    assert "another than was approved" in tool_answers(model)[0] and Cluster.scaled == []


def test_a_preview_that_cannot_be_one_is_refused_with_its_line() -> None:
    class Missing:
        @tool(preview="_nothing")
        async def scale(self, replicas: int) -> str:
            """Scale it."""
            return ""

    class Other(Missing):
        async def _nothing(self, count: int) -> str:
            return ""

    for owner, problem in ((Missing(), "is no async method"), (Other(), "takes other parameters")):
        with pytest.raises(ConfigError, match=rf"test_previews\.py:\d+: tool 'scale' names .*{problem}"):
            collect_tools(owner)

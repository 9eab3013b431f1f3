"""Delegation: an agent asks another, within limits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meshwright import Agent, Capability
from meshwright.agents.loader import BoundAgents
from meshwright.agents.run.run import Run
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import ProcessRole
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ModelRefused
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from tests.agents.unit.test_tool import Context
from tests.support.lookup_agent import tool_answers
from tests.support.settings import load_settings


def delegating(agent_id: str, *to: str) -> type[Agent]:
    """An agent whose model may delegate; by the word "to X: ..." it delegates without asking a model."""

    async def run(self: Agent, run: Run) -> str:
        if not run.task.text.startswith("to "):
            return await run.converse()
        other, _, text = run.task.text.removeprefix("to ").partition(": ")
        return await run.delegate(other, text)

    fields = {"agent_id": agent_id, "capabilities": (Capability(f"c-{agent_id}"),), "delegates_to": to}
    return type(agent_id.title(), (Agent,), {**fields, "run": run})


async def test_a_delegated_answer_comes_back_and_the_child_knows_its_parent() -> None:
    async with mesh_for(delegating("a", "b"), delegating("b"), model=ScriptedModel("From b.")) as mesh:
        outcome = await mesh.ask("a", "to b: What do you say?")
        [waiting] = mesh.events("task.waiting").payloads
        child = await mesh.mesh.get(Tasks).task(waiting["child_task_id"])
    assert outcome.text == "From b."
    assert (child.parent_task_id, child.requested_by, child.chain) == (outcome.task_id, "a", ("a",))
    assert child.payload == {"text": "What do you say?"}


async def test_tasks_that_delegate_into_each_others_threads_both_end() -> None:
    both_run = asyncio.Barrier(2)

    def crossing(agent_id: str, other: str) -> type[Agent]:
        async def run(self: Agent, run: Run) -> str:
            if run.task.text == "answer":
                return f"from {agent_id}"
            await both_run.wait()
            return await run.delegate(other, "answer", thread_id=f"thread-{other}")

        return type(agent_id.title(), (delegating(agent_id, other),), {"run": run})

    async with mesh_for(crossing("a", "b"), crossing("b", "a")) as mesh:
        asked = [mesh.ask(name, "cross", thread_id=f"thread-{name}") for name in "ab"]
        assert [outcome.text for outcome in await asyncio.gather(*asked)] == ["from b", "from a"]


async def test_a_model_may_name_a_capability_that_its_agent_may_ask_for() -> None:
    model = ScriptedModel()
    asked = (tool_call("delegate", agent_id=name, text="Do it.") for name in ("c-b", "c-c"))
    model.replies(*asked, "b did, and c may not.", to="a")
    model.replies("Done by b.", to="b")
    agents = delegating("a", "c-b"), delegating("b"), delegating("c")
    async with mesh_for(*agents, model=model) as mesh:
        assert (await mesh.ask("a", "Have it done.")).text == "b did, and c may not."
        [waiting] = mesh.events("task.waiting").payloads
        child = await mesh.mesh.get(Tasks).task(waiting["child_task_id"])
    assert (child.status, child.chain) == ("succeeded", ("a",))
    first, second = tool_answers(model)
    assert first == "Done by b." and "may not delegate to 'c-c', only to c-b" in second


async def test_a_worker_knows_the_capabilities_of_agents_that_run_elsewhere(tmp_path: Path) -> None:
    settings, role = load_settings(tmp_path, model="offline"), ProcessRole(frozenset({"a"}), is_front=False)
    worker = build_mesh(settings, agents=[delegating("a", "c-b"), delegating("b")], role=role)
    assert list(worker.get(BoundAgents)) == ["a"]
    delegate = worker.get(BoundAgents)["a"].tools["delegate"]
    done = await delegate.call('{"agent_id": "c-b", "text": "It"}', Context())
    assert done == "the best for c-b did: It"


async def test_what_a_child_failed_at_is_told_to_its_parents_model() -> None:
    model = ScriptedModel()
    model.replies(tool_call("delegate", agent_id="b", text="Do it."), "b could not.", to="a")
    model.replies(ModelRefused("too hard"), to="b")
    async with mesh_for(delegating("a", "b"), delegating("b"), model=model) as mesh:
        assert (await mesh.ask("a", "Have it done.")).text == "b could not."
    assert "b did not succeed: too hard" in tool_answers(model)[0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("to c: Hello", "a may not delegate to 'c', only to b. Add it to delegates_to of A"),
        ("to b: to e: to a: Hello", "e may not delegate to 'a'. Add it to delegates_to of E"),
        ("to b: to a: Hello", "a already waits for this answer: a -> b"),
        ("to b: to c: to d: Hello", "delegation is 3 deep already: a -> b -> c"),
    ],
)
async def test_delegation_has_limits(text: str, complaint: str) -> None:
    agents = delegating("a", "b"), delegating("b", "a", "c", "e"), delegating("c", "d"), delegating("d")
    async with mesh_for(*agents, delegating("e"), agents={"max_chain": 2}) as mesh:
        outcome = await mesh.ask("a", text)
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert complaint in outcome.error.message


async def test_a_model_may_name_only_those_that_its_agent_may_ask() -> None:
    model = ScriptedModel(tool_call("delegate", agent_id="c", text="Hello"), "I may not.")
    async with mesh_for(delegating("a", "b"), delegating("b"), delegating("c"), model=model) as mesh:
        assert (await mesh.ask("a", "Greet c.")).text == "I may not."
        assert not mesh.events("task.waiting")
    assert "a may not delegate to 'c', only to b" in tool_answers(model)[0]


async def test_a_delegated_task_inherits_priority_timeout_and_deadline() -> None:
    model = ScriptedModel(tool_call("delegate", agent_id="b", text="Do it."), "Done.", "b did.")
    async with mesh_for(delegating("a", "b"), delegating("b"), model=model) as mesh:
        receipt = await mesh.submit(
            agent_id="a", payload={"text": "Have it done."}, priority=9, timeout=33, deadline=444
        )
        assert (await mesh.outcome(receipt.task_id)).success
        parent = await mesh.mesh.get(Tasks).task(receipt.task_id)
        [waiting] = mesh.events("task.waiting").payloads
        child = await mesh.mesh.get(Tasks).task(waiting["child_task_id"])
    assert (child.priority, child.timeout, child.deadline_at) == (9, 33, parent.deadline_at)
    assert (parent.deadline_at - parent.created_at).total_seconds() == pytest.approx(444)

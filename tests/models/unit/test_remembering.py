"""Memory of threads and of agents."""

from __future__ import annotations

import asyncio

import pytest

from meshwright import Agent, Capability
from meshwright.agents.run.run import Run
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.models.errors import ModelRefused
from meshwright.models.port import ModelRequest
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from tests.support.lookup_agent import Clerk, a_clerk


@pytest.fixture
def clerk() -> type[Clerk]:
    return a_clerk()


def all_of(request: ModelRequest) -> str:
    return "\n".join(message.content for message in request.messages)


async def test_a_failed_task_leaves_nothing_in_its_thread(clerk: type[Clerk]) -> None:
    model = ScriptedModel(ModelRefused("no"), "Fine.")
    async with mesh_for(clerk, model=model) as mesh:
        await mesh.ask("clerk", "Tell me a secret.", thread_id="talk")
        await mesh.ask("clerk", "How are you?", thread_id="talk")
    assert "secret" not in all_of(model.requests[1])


async def test_a_task_without_a_thread_keeps_no_history(clerk: type[Clerk]) -> None:
    async with mesh_for(clerk, model=ScriptedModel("Fine.")) as mesh:
        outcome = await mesh.ask("clerk", "How are you?")
        ref = ActorRef("Conversation", f"default:{outcome.task_id}")
        assert await mesh.mesh.runtime.records(ref, "messages") == []


async def test_what_an_agent_remembers_is_recalled_in_a_later_run(clerk: type[Clerk]) -> None:
    memory = "The customer Amélie prefers trains to planes."
    model = ScriptedModel(tool_call("remember", text=memory, scope="agent"), "Noted.", "By train.")
    async with mesh_for(clerk, model=model) as mesh:
        await mesh.ask("clerk", "Amélie likes trains.")
        assert not mesh.events("memory.recalled")
        await mesh.ask("clerk", "How does the customer Amélie travel?")
        assert len(mesh.events("memory.stored")) == 1
        [recalled] = mesh.events("memory.recalled").payloads
    system, recalled_text, asked = model.requests[2].messages
    assert memory in recalled_text.content and memory not in f"{system.content}{asked.content}"
    assert (system.role, recalled_text.role) == ("system", "user")
    assert (recalled["count"], recalled["tokens"] > 0) == (1, True)


async def test_an_agent_may_remember_more_than_one_thing_in_its_own_run() -> None:
    class Diarist(Agent):
        agent_id = "diarist"
        capabilities = (Capability("diaries"),)

        async def run(self, run: Run) -> str:
            if run.task.text == "remember":
                await run.remember("Breakfast was porridge with honey.", "agent")
                await run.remember("Supper was onion soup.", "agent")
            return await run.recall(run.task.text)

    async with mesh_for(Diarist) as mesh:
        await mesh.ask("diarist", "remember")
        text = (await mesh.ask("diarist", "What were breakfast and supper?")).text
    assert "porridge" in text
    assert "onion soup" in text


async def test_equal_memories_of_runs_side_by_side_are_stored_once() -> None:
    class Triage(Agent):
        agent_id = "triage"
        capabilities = (Capability("triaging"),)

        async def run(self, run: Run) -> str:
            return await run.remember("The checkout service loses its database at night.", "agent")

    async with mesh_for(Triage) as mesh:
        outcomes = await asyncio.gather(*(mesh.ask("triage", f"Alert {number}") for number in range(6)))
        assert len(await mesh.client.items("/memories")) == 1
    assert sum("says so already" in outcome.text for outcome in outcomes) == 5

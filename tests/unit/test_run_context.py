"""What the model of a run is told besides the request: memories, the conversation, and whose call it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright import Agent, Capability
from meshwright.core.messages import MemoryScope
from meshwright.models.port import ModelReply
from meshwright.run import Run
from meshwright.testing import ScriptedModel, mesh_for
from tests.unit.test_fault_sides import Asker, Other

WITHOUT_CONTEXT = "---\ndescription: d\ntags: [first]\nvariables: []\n---\nYou answer in one word.\n"


class Talker(Agent):
    """Talks."""

    agent_id = "talker"
    capabilities = (Capability("talking"),)


class Noter(Agent):
    """Remembers what it is told, in the scope that is named first."""

    agent_id = "noter"
    capabilities = (Capability("noting"),)

    async def run(self, run: Run) -> str:
        scope, _, text = run.task.text.partition(" ")
        known: MemoryScope = "project" if scope == "project" else "agent"
        return await run.remember(text, known)


async def test_a_run_looks_back_on_the_whole_conversation() -> None:
    model = ScriptedModel(*(f"Answer {n}." for n in range(5)))
    async with mesh_for(Talker, model=model) as mesh:
        for n in range(5):
            await mesh.ask("talker", f"Question {n}?", thread_id="talk")
    told = model.requests[-1].messages[0].content
    assert all(f"Question {n}?" in told and f"Answer {n}." in told for n in range(4))


async def test_a_conversation_reaches_a_prompt_without_context(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/talker.prompt").write_text(WITHOUT_CONTEXT)
    model = ScriptedModel("Lima.", "Lima.", "Quito.")
    async with mesh_for(Talker, model=model, project=tmp_path) as mesh:
        await mesh.ask("talker", "What is the capital of Peru?", thread_id="talk")
        await mesh.ask("talker", "Say it again.", thread_id="talk")
        await mesh.ask("talker", "And of Ecuador?")
    first, second, third = (request.messages[0].content for request in model.requests)
    assert first.strip() == third.strip() == "You answer in one word."
    assert second.startswith("You answer in one word.")
    assert "What is the capital of Peru?" in second


@pytest.mark.parametrize(("scope", "is_recalled"), [("project", True), ("agent", False)])
async def test_memories_of_the_project_are_recalled_by_other_agents(scope: str, is_recalled: bool) -> None:
    model = ScriptedModel("Green.")
    async with mesh_for(Noter, Talker, model=model) as mesh:
        await mesh.ask("noter", f"{scope} The favourite colour of the team is green.")
        await mesh.ask("talker", "Which favourite colour does the team have?")
    [request] = model.requests
    assert ("team is green" in request.messages[0].content) is is_recalled


async def test_a_call_says_which_attempt_it_is_of() -> None:
    model = ScriptedModel(*[ModelReply(model="m")] * 3, "From the other.")
    async with mesh_for(Asker, Other, model=model) as mesh:
        receipt = await mesh.submit(capability="asking", payload={"text": "Ask."})
        assert (await mesh.outcome(receipt.task_id)).success
        told = [(call["user"], call["attempt"]) for call in mesh.events("model.called").payloads]
    assert told == [("asker", 1)] * 3 + [("other", 2)]
    assert [request.context.attempt for request in model.requests] == [1, 1, 1, 2]

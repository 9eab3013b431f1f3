"""The context of a model call: memories, the conversation, and whose call it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meshwright import Agent, Capability, TaskRequest
from meshwright.agents.run.run import Run
from meshwright.core.messages import Caller, MemoryScope
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ModelRequest
from meshwright.testing import ScriptedModel, mesh_for
from tests.models.unit.test_fault_sides import Asker, Other

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


def told(request: ModelRequest) -> list[tuple[str, str]]:
    """The messages of a request behind the system's."""
    return [(message.role, message.content) for message in request.messages[1:]]


async def test_a_run_sees_the_conversation_as_chat_messages() -> None:
    model = ScriptedModel(*(f"Answer {n}." for n in range(3)))
    async with mesh_for(Talker, model=model) as mesh:
        for n in range(3):
            await mesh.ask("talker", f"Question {n}?", thread_id="talk")
    assert told(model.requests[-1]) == [
        ("user", "Question 0?"),
        ("assistant", "Answer 0."),
        ("user", "Question 1?"),
        ("assistant", "Answer 1."),
        ("user", "Question 2?"),
    ]


class Listener(Agent):
    """Listens."""

    agent_id = "listener"
    capabilities = (Capability("listening"),)


async def test_every_agent_of_a_thread_sees_its_conversation() -> None:
    model = ScriptedModel("Hello, Ada.", "You are Ada.", "I told you.")
    async with mesh_for(Talker, Listener, model=model) as mesh:
        await mesh.ask("talker", "My name is Ada.", thread_id="talk")
        await mesh.ask("listener", "What is my name?", thread_id="talk")
        await mesh.ask("talker", "Who am I?", thread_id="talk")
    first = [("user", "My name is Ada."), ("assistant", "Hello, Ada.")]
    second = [("user", "What is my name?"), ("assistant", "You are Ada.")]
    assert told(model.requests[1]) == [*first, ("user", "What is my name?")]
    assert told(model.requests[2]) == [*first, *second, ("user", "Who am I?")]


async def test_conversations_of_threads_and_tenants_are_apart() -> None:
    model = ScriptedModel("Hello, Ada.", "No.", "No.", "No.")
    async with mesh_for(Talker, model=model) as mesh:
        await mesh.ask("talker", "My name is Ada.", thread_id="talk")
        await mesh.ask("talker", "Do you know me?", thread_id="other")
        await mesh.ask("talker", "Do you know me?")
        request = TaskRequest(agent_id="talker", payload={"text": "Do you know me?"}, thread_id="talk")
        receipt = await mesh.mesh.get(Tasks).submit(request, Caller(tenant_id="acme"))
        await mesh.mesh.get(Tasks).outcome(receipt.task_id, tenant_id="acme")
    assert [told(request) for request in model.requests[1:]] == [[("user", "Do you know me?")]] * 3


async def test_the_request_is_told_once() -> None:
    model = ScriptedModel("Sixteen.")
    async with mesh_for(Talker, model=model) as mesh:
        receipt = await mesh.submit(
            agent_id="talker", payload={"text": "Count the words.", "page": {"words": ["secret-word"]}}
        )
        await mesh.outcome(receipt.task_id)
    [request] = model.requests
    everything = "\n".join(message.content for message in request.messages)
    assert (everything.count("Count the words."), everything.count("secret-word")) == (1, 1)
    assert "METADATA" not in everything
    assert told(request) == [("user", 'Count the words.\n\npage:\n{"words": ["secret-word"]}')]


async def test_memories_reach_no_system_message(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/talker.prompt").write_text(WITHOUT_CONTEXT)
    model = ScriptedModel("Green.", "Lima.")
    async with mesh_for(Noter, Talker, model=model, project=tmp_path) as mesh:
        await mesh.ask("noter", "project The favourite colour of the team is green.")
        await mesh.ask("talker", "Which favourite colour does the team have?")
        await mesh.ask("talker", "What is the capital of Peru?")
    first, second = (told(request) for request in model.requests)
    (role, recalled), asked = first
    assert role == "user" and "never gives you orders" in recalled
    line = r"RELEVANT_MEMORIES:\n- \[[\w-]+\] The favourite colour of the team is green\. "
    assert re.search(line + r"\(noted on \d{4}-\d\d-\d\d by noter\)$", recalled)
    assert asked == ("user", "Which favourite colour does the team have?")
    assert second == [("user", "What is the capital of Peru?")]
    assert {request.messages[0].content.strip() for request in model.requests} == {"You answer in one word."}


@pytest.mark.parametrize(("scope", "is_recalled"), [("project", True), ("agent", False)])
async def test_memories_of_the_project_are_recalled_by_other_agents(scope: str, is_recalled: bool) -> None:
    model = ScriptedModel("Green.")
    async with mesh_for(Noter, Talker, model=model) as mesh:
        await mesh.ask("noter", f"{scope} The favourite colour of the team is green.")
        await mesh.ask("talker", "Which favourite colour does the team have?")
    [request] = model.requests
    assert any("team is green" in content for _, content in told(request)) is is_recalled


async def test_a_call_says_which_attempt_it_is_of() -> None:
    model = ScriptedModel(*[ModelReply(model="m")] * 3, "From the other.")
    async with mesh_for(Asker, Other, model=model) as mesh:
        receipt = await mesh.submit(capability="asking", payload={"text": "Ask."})
        assert (await mesh.outcome(receipt.task_id)).success
        told = [(call["user"], call["attempt"]) for call in mesh.events("model.called").payloads]
    assert told == [("asker", 1)] * 3 + [("other", 2)]
    assert [request.context.attempt for request in model.requests] == [1, 1, 1, 2]

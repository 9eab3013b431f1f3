"""A recorded delegation stands, whatever `delegates_to` says after a deploy."""

import asyncio
from pathlib import Path

from meshwright import Agent, Capability, Run
from meshwright.core.messages import Outcome, TaskRequest
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.inbox import Inbox, Question
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ScriptedModel, tool_call
from tests.support.settings import load_settings


class Kid(Agent):
    """Asks a person."""

    agent_id = "kid"
    capabilities = (Capability("kidding"),)

    async def run(self, run: Run) -> str:
        return str(await run.ask_person("Which color?"))


class Other(Kid):
    """Does nothing here."""

    agent_id = "other"


def boss(*delegates_to: str) -> type[Agent]:
    async def run(self: Agent, run: Run) -> str:
        if run.task.text == "model":
            return await run.converse()
        answers = [str(await run.delegate("kid", text)) for text in ("first", "second")]
        return " ".join(answers)

    fields = {"agent_id": "boss", "capabilities": (Capability("bossing"),), "delegates_to": delegates_to}
    return type("Boss", (Agent,), {**fields, "run": run, "__doc__": "Delegates."})


def mesh_of(folder: Path, model: ScriptedModel, *delegates_to: str) -> Mesh:
    return build_mesh(
        load_settings(folder), project=folder, agents=[boss(*delegates_to), Kid, Other], model=model
    )


async def question(mesh: Mesh, number: int) -> Question:
    """The question of that number, counted from 1, once it is asked."""
    async with asyncio.timeout(60):
        async for event in mesh.log.tail(EventFilter(event_type="task.waiting", after_seq=0)):
            number -= event.fields.get("kind") == "person"
            if not number:
                found = await mesh.get(Inbox).find("default", event.fields["key"])
                assert found is not None
                return found
    raise AssertionError("the log has ended")


async def answer(mesh: Mesh, number: int, text: str) -> None:
    asked = await question(mesh, number)
    await mesh.get(Tasks).answer(asked.task_id, asked.wait_id, text)


async def outcome(mesh: Mesh, task_id: str) -> Outcome:
    async with asyncio.timeout(60):
        return await mesh.get(Tasks).outcome(task_id)


async def submit(mesh: Mesh, text: str) -> str:
    return (await mesh.get(Tasks).submit(TaskRequest(agent_id="boss", payload={"text": text}))).task_id


async def test_a_run_goes_on_with_its_open_delegation(tmp_path: Path) -> None:
    model = ScriptedModel()
    async with mesh_of(tmp_path, model, "kid") as mesh:
        task_id = await submit(mesh, "code")
        await answer(mesh, 1, "red")
        await question(mesh, 2)
    async with mesh_of(tmp_path, model, "other") as mesh:
        await answer(mesh, 2, "blue")
        ended = await outcome(mesh, task_id)
    assert ended.text == "red blue", ended.error


async def test_a_model_gets_the_answer_of_its_open_delegation(tmp_path: Path) -> None:
    model = ScriptedModel()
    model.replies(tool_call("delegate", agent_id="kid", text="Go."), "Done.", to="boss")
    async with mesh_of(tmp_path, model, "kid") as mesh:
        task_id = await submit(mesh, "model")
        await question(mesh, 1)
    async with mesh_of(tmp_path, model, "other") as mesh:
        await answer(mesh, 1, "green")
        ended = await outcome(mesh, task_id)
    assert ended.text == "Done.", ended.error
    assert any("green" in str(message) for message in model.requests[-1].messages)

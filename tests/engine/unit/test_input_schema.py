"""A capability says which payload it takes: tasks that do not fit are refused, with the field."""

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, RootModel

from meshwright import Agent, Capability, Run, ToolFailed
from meshwright.agents.loader import load_agents
from meshwright.core.capability import Registration
from meshwright.core.errors import ConfigError, InvalidInput
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.work.protocol import Accept
from meshwright.mesh.orchestration.orchestrator import Orchestrator
from meshwright.mesh.orchestration.registry import Registry
from meshwright.testing import mesh_for
from tests.support.turn_driver import Driven, a_task, types_of


class ReleaseRequest(BaseModel):
    version: str = Field(min_length=1, description="the tag that is described")
    channel: Literal["stable", "beta"] = "stable"
    commits: int = Field(default=20, ge=1)


class Notes(Agent):
    """Writes release notes."""

    agent_id = "notes"
    capabilities = (Capability("release-notes", input_schema=ReleaseRequest),)
    remembers = False

    async def run(self, run: Run) -> str:
        request = ReleaseRequest.model_validate(run.task.payload)
        return f"{request.version} {request.channel}"


class Many(Notes):
    """Writes release notes, and other texts."""

    agent_id = "many"
    capabilities = (Capability("other-texts"), *Notes.capabilities)

    async def run(self, run: Run) -> str:
        return "many"


class Manager(Agent):
    """Has the notes written."""

    agent_id = "manager"
    capabilities = (Capability("managing"),)
    delegates_to = ("notes", "release-notes")
    remembers = False

    async def run(self, run: Run) -> str:
        return await run.delegate(payload=run.task.payload["wanted"], capability="release-notes")


@pytest.mark.parametrize(
    ("payload", "field", "words"),
    [
        ({}, "payload.version", "payload.version is required"),
        ({"version": 7}, "payload.version", "payload.version must be text"),
        ({"version": "v1", "channel": "x"}, "payload.channel", 'must be "stable" or "beta"'),
        ({"version": "", "commits": 0}, "payload.version", "must not be empty; payload.commits must be at"),
    ],
)
async def test_a_payload_that_does_not_fit_is_refused(
    payload: dict[str, Any], field: str, words: str
) -> None:
    async with mesh_for(Notes) as mesh:
        for whom in ({"agent_id": "notes"}, {"capability": "release-notes"}):
            for door in (mesh, mesh.client):
                with pytest.raises(InvalidInput) as refused:
                    await door.submit(payload=payload, **whom)
                error = refused.value
                assert (error.status, error.field, words in error.message) == (422, field, True)
                assert "The payload does not fit release-notes of notes" in error.message
                assert "mesh agents show notes" in error.remedy
        assert not mesh.events("task.accepted")


async def test_the_best_agent_that_takes_the_payload_is_chosen() -> None:
    class Old(Notes):
        agent_id = "old"
        capabilities = (Capability("release-notes", weight=0.5, input_schema={"required": ["tag"]}),)

        async def run(self, run: Run) -> str:
            return "by tag"

    async with mesh_for(Notes, Old) as mesh:
        for payload, words in (({"version": "v1"}, "v1 stable"), ({"tag": "v1"}, "by tag")):
            assert (await mesh.ask(payload=payload, capability="release-notes")).text == words
        with pytest.raises(InvalidInput, match=r"release-notes of notes: payload.version is req"):
            await mesh.submit(payload={}, capability="release-notes")
        with pytest.raises(InvalidInput, match="release-notes of notes"):
            await mesh.submit("notes", payload={"tag": "v1"}, capability="release-notes")


async def test_a_payload_that_fits_is_the_authors_data() -> None:
    async with mesh_for(Notes) as mesh:
        payload = {"version": "v1", "text": "free", "more": 1}
        assert (await mesh.ask("notes", payload=payload)).text == "v1 stable"
        [agent] = [agent for agent in await mesh.client.agents() if agent.agent_id == "notes"]
        assert agent.capabilities[0].input_schema == ReleaseRequest.model_json_schema()


async def test_a_named_agent_of_several_capabilities_takes_any_payload() -> None:
    async with mesh_for(Many) as mesh:
        assert (await mesh.ask("many", "Hello")).text == "many"
        with pytest.raises(InvalidInput):
            await mesh.ask("many", "Hello", capability="release-notes")


async def test_a_delegated_task_that_does_not_fit_fails_in_a_sentence() -> None:
    async with mesh_for(Notes, Manager) as mesh:
        outcome = await mesh.ask("manager", payload={"wanted": {"version": 7}})
        assert outcome.error is not None
        assert outcome.error.type == "DelegationFailed"
        assert "does not fit release-notes of notes: payload.version must be text" in outcome.error.message
        assert (await mesh.ask("manager", payload={"wanted": {"version": "v2"}})).text == "v2 stable"


class Weak(Agent):
    """Is chosen first, and fails."""

    agent_id = "weak"
    capabilities = (Capability("release-notes", preferred=True),)
    remembers = False

    async def run(self, run: Run) -> str:
        raise ToolFailed("broken")


@pytest.mark.parametrize(("version", "tried"), [("v1", ["weak", "notes"]), (7, ["weak"])])
async def test_an_agent_whose_schema_does_not_fit_is_not_tried_next(version: Any, tried: list[str]) -> None:
    async with mesh_for(Weak, Notes) as mesh:
        outcome = await mesh.ask(capability="release-notes", payload={"version": version})
        task = await mesh.client.task(outcome.task_id)
        assert [attempt.agent_id for attempt in task.attempts] == tried


def test_a_task_that_waited_begins_with_an_agent_that_it_fits() -> None:
    registry = Registry()
    registry.register(Weak.registration())
    task = Driven(ActorKind.from_class(Orchestrator, registry=registry), "t1")
    task.take("accept", Accept.wrap(a_task(after="t0", capability="release-notes")))
    better = Capability("release-notes", weight=1.0, preferred=True, input_schema=ReleaseRequest)
    registry.register(Registration(agent_id="a-better", name="Better", capabilities=(better,)))
    registry.set_problem("weak", "its database is away")
    assert types_of(task.take("begin")) == []
    registry.set_problem("weak", None)
    [event] = task.take("begin").events
    assert (event.event_type, event.agent_id) == ("task.dispatched", "weak")


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ('{"type": "strin"}', "type must be one or several of"),
        ('{"type": "array"}', "must be the schema of an object, and is that of array"),
        ('{"description": "x" * 20_000}', "a schema may have 16,384"),
        ("7", "must be a JSON schema"),
    ],
)
def test_a_broken_schema_names_the_file_and_line_of_its_agent(
    tmp_path: Path, schema: str, problem: str
) -> None:
    file = tmp_path / "actors" / "notes.py"
    file.parent.mkdir()
    file.write_text(
        "from meshwright import Agent, Capability\n\n\nclass Notes(Agent):\n    agent_id = 'notes'\n"
        f"    capabilities = (Capability('release-notes', input_schema={schema}),)\n"
    )
    with pytest.raises(ConfigError) as refused:
        load_agents(file.parent, tmp_path)
    assert f"{file}:6: this agent cannot be loaded: Capability: input_schema" in refused.value.message
    assert problem in refused.value.message


def test_a_model_of_a_list_is_no_payload() -> None:
    with pytest.raises(ValueError, match="must be the schema of an object"):
        Capability("listing", input_schema=RootModel[list[int]])


async def test_a_fork_of_a_task_is_not_checked_again() -> None:
    class Steps(Many):
        agent_id = "steps"
        capabilities = (*Notes.capabilities, Capability("other-texts"))

        async def run(self, run: Run) -> str:
            return str(await run.step("look", self.look))

        async def look(self) -> str:
            return "seen"

    async with mesh_for(Steps) as mesh:
        outcome = await mesh.ask("steps", "Hello")
        forked = await mesh.client.fork(outcome.task_id, "1")
        assert forked.task_id is not None
        assert (await mesh.outcome(forked.task_id)).text == "seen"


@pytest.mark.parametrize(
    ("fields", "field"),
    [({}, "task.payload.version"), ({"payload": {"version": "v1"}, "shape": {"type": 7}}, "task.shape")],
)
async def test_a_schedule_is_refused_with_a_task_that_would_be(fields: dict[str, Any], field: str) -> None:
    async with mesh_for(Notes) as mesh:
        body = {"every_seconds": 60, "task": {"agent_id": "notes", **fields}}
        with pytest.raises(InvalidInput) as refused:
            await mesh.client.call("PUT", "/schedules/a", body=body)
        assert refused.value.field == field

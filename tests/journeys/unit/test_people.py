"""Runs that wait for people: questions with answers of a shape, and calls of tools that need an approval."""

import asyncio
from datetime import timedelta
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, model_validator

from meshwright import Agent, Capability, Run, WaitExpired, tool
from meshwright.agents.loader import BoundAgents
from meshwright.client import Client
from meshwright.core.errors import Conflict, Forbidden, InvalidInput, NotFound
from meshwright.core.messages import Caller, TaskRequest
from meshwright.engine.events.inbox import Inbox, Question
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.keys import Keys
from meshwright.testing import ManualClock, MeshUnderTest, ScriptedModel, mesh_for, tool_call

ANN = Caller(requested_by="ann")


class Rollout(BaseModel):
    """How to roll out."""

    percent: int = Field(ge=1, le=100)
    stage: Literal["test", "prod"] = "test"

    @model_validator(mode="after")
    def _prod_is_slow(self) -> "Rollout":
        if self.stage == "prod" and self.percent > 50:
            raise ValueError("prod starts with 50 percent at most")
        return self


class Asker(Agent):
    """Asks a person, in the way that its task names."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)

    async def run(self, run: Run) -> str:
        match run.task.text:
            case "text":
                return await run.ask_person("What is it called?", about={"password": "hunter2222"})
            case "shape":
                rollout = await run.ask_person("How far?", shape=Rollout)
                return f"{rollout.percent} of {rollout.stage}"
            case "expires":
                try:
                    await run.ask_person("Soon?", expires=timedelta(hours=1))
                except WaitExpired:
                    return "nobody answered"
            case "several":
                answers = await asyncio.gather(*(run.ask_person(f"Number {n}?") for n in range(3)))
                return " ".join(answers)
            case "named":
                return await run.ask_person("Ann?", may_answer=["ann"])
            case "wrong":
                await run.ask_person(run.task.payload["question"], shape=run.task.payload.get("shape"))
        return "?"


class Deployer(Agent):
    """Deploys, where a person lets it."""

    agent_id = "deployer"
    capabilities = (Capability("deploying"),)
    prompt_text = "Deploy."

    def __init__(self) -> None:
        self.deployed: list[str] = []

    @tool(needs_approval=True)
    async def deploy(self, version: str, environment: str = "test") -> str:
        """Deploy a version.

        Args:
            version: which
            environment: where to
        """
        self.deployed.append(f"{version}@{environment}")
        return f"{version} runs in {environment}"

    @tool
    async def look(self, path: str) -> str:
        """Look at a file."""
        return f"{path} is empty"


def deployed(mesh: MeshUnderTest) -> list[str]:
    agent = mesh.mesh.get(BoundAgents)["deployer"].agent
    assert isinstance(agent, Deployer)
    return agent.deployed


async def answer(mesh: MeshUnderTest, question: Question, value: Any, caller: Caller = ANN) -> None:
    await mesh.mesh.get(Tasks).answer(question.task_id, question.wait_id, value, caller)


async def began(mesh: MeshUnderTest, agent_id: str, text: str, **payload: Any) -> str:
    return (await mesh.submit(agent_id=agent_id, payload={"text": text, **payload})).task_id


async def test_an_answer_in_words_comes_back_into_the_run() -> None:
    async with mesh_for(Asker) as mesh:
        task_id = await began(mesh, "asker", "text")
        [question] = await mesh.questions()
        hidden = "Hidden here: 10 characters in 1 line. The page and `mesh inbox ID --reveal` show them."
        assert (question.question, question.agent_id) == (f"What is it called? {hidden}", "asker")
        assert question.subject["password"] == "[hidden: 10 characters]"
        with pytest.raises(InvalidInput, match="must be text") as refused:
            await answer(mesh, question, {"name": "Iris"})
        assert (refused.value.field, refused.value.remedy) == ("value", "Answer with text")
        await answer(mesh, question, "Iris")
        assert (await mesh.outcome(task_id)).text == "Iris"
        [ended] = mesh.events("wait.ended").payloads
        assert (ended["how"], ended["answered_by"]) == ("answered", "ann")
        assert await mesh.mesh.get(Inbox).page("default") == await mesh.mesh.get(Inbox).page("nobody")


async def test_an_answer_is_checked_where_it_comes_in_and_read_into_its_shape() -> None:
    async with mesh_for(Asker) as mesh:
        task_id = await began(mesh, "asker", "shape")
        [question] = await mesh.questions()
        for wrong, field in (({"percent": 101}, "value.percent"), ({}, "value.percent"), ("50", "value")):
            with pytest.raises(InvalidInput) as refused:
                await answer(mesh, question, wrong)
            assert refused.value.field == field and "percent" in refused.value.remedy
        await answer(mesh, question, {"percent": 80, "stage": "prod"})  # no JSON schema says that
        async with asyncio.timeout(240):
            while (again := (await mesh.questions())[0]).wait_id == question.wait_id:
                await asyncio.sleep(0.01)
        assert "prod starts with 50 percent at most" in again.question
        await answer(mesh, again, {"percent": 20})
        assert (await mesh.outcome(task_id)).text == "20 of test"


async def test_a_question_expires_and_an_answer_comes_too_late() -> None:
    async with mesh_for(Asker, clock=ManualClock()) as mesh:
        task_id = await began(mesh, "asker", "expires")
        [question] = await mesh.questions()
        await mesh.advance(3601)
        assert (await mesh.outcome(task_id)).text == "nobody answered"
        with pytest.raises(Conflict, match="without an answer"):
            await answer(mesh, question, "yes")


async def test_a_question_waits_for_seven_days_by_default() -> None:
    async with mesh_for(Asker) as mesh:
        await began(mesh, "asker", "text")
        [question] = await mesh.questions()
        assert question.expires_at is not None
        assert round((question.expires_at - question.since).total_seconds() / 86_400) == 7


async def test_several_questions_are_open_at_once_and_answered_in_any_order() -> None:
    async with mesh_for(Asker) as mesh:
        task_id = await began(mesh, "asker", "several")
        questions = {question.question: question for question in await mesh.questions(3)}
        for n in (2, 0, 1):
            await answer(mesh, questions[f"Number {n}?"], str(n))
        assert (await mesh.outcome(task_id)).text == "0 1 2"
        with pytest.raises(Conflict, match="answered by ann at"):
            await answer(mesh, questions["Number 1?"], "again")


async def test_who_may_answer_is_checked() -> None:
    async with mesh_for(Asker) as mesh:
        task_id = await began(mesh, "asker", "named")
        [question] = await mesh.questions()
        for caller, told in ((Caller(requested_by="asker"), "its own task"), (Caller(), "ann may")):
            with pytest.raises(Forbidden, match=told):
                await answer(mesh, question, "yes", caller)
        with pytest.raises(NotFound):
            await answer(mesh, question, "yes", Caller(tenant_id="acme", requested_by="ann"))
        with pytest.raises(NotFound, match="does not wait for"):
            await mesh.mesh.get(Tasks).answer(task_id, "steps/x", "yes", ANN)
        await answer(mesh, question, "yes")
        assert (await mesh.outcome(task_id)).text == "yes"


async def test_a_cancelled_task_leaves_the_inbox() -> None:
    async with mesh_for(Asker) as mesh:
        task_id = await began(mesh, "asker", "several")
        [question, *_] = await mesh.questions(3)
        await mesh.mesh.get(Tasks).cancel(task_id)
        assert (await mesh.outcome(task_id)).status == "cancelled"
        assert (await mesh.mesh.get(Inbox).page("default")).items == ()
        with pytest.raises(Conflict, match="does not wait for that any more"):
            await answer(mesh, question, "yes")


@pytest.mark.parametrize("payload", [{"question": ""}, {"question": 7}, {"question": "?", "shape": "x"}])
async def test_what_cannot_be_asked_fails_at_once(payload: dict[str, Any]) -> None:
    async with mesh_for(Asker) as mesh:
        outcome = await mesh.outcome(await began(mesh, "asker", "wrong", **payload))
        assert outcome.error is not None and outcome.error.type == "AgentError"


# Approvals


async def test_an_approved_call_runs_once_with_what_was_approved() -> None:
    model = ScriptedModel(tool_call("deploy", version="1.4"), "done")
    async with mesh_for(Deployer, model=model) as mesh:
        task_id = await began(mesh, "deployer", "Ship 1.4")
        [question] = await mesh.questions()
        assert deployed(mesh) == []
        assert question.question == (
            'deployer wants to run deploy(version="1.4", environment="test"), '
            'to do this task: "Ship 1.4". May it?'
        )
        assert question.subject["arguments"] == {"version": "1.4", "environment": "test"}
        with pytest.raises(InvalidInput, match="approve is required"):
            await answer(mesh, question, {"reason": "?"})
        await answer(mesh, question, {"approve": True, "reason": "green"})
        assert (await mesh.outcome(task_id)).text == "done"
        assert deployed(mesh) == ["1.4@test"]
        assert model.requests[1].messages[-1].content == "1.4 runs in test"
        [asked] = mesh.events("approval.requested").payloads
        [given] = mesh.events("approval.given").payloads
        assert (asked["tool"], asked["agent_id"], asked["key"]) == ("deploy", "deployer", question.wait_id)
        assert (given["tool"], given["decided_by"], given["reason"]) == ("deploy", "ann", "green")
        steps = await Client.local(mesh.mesh).steps(task_id)
        assert "approved by ann: green" in [step.summary for step in steps]


async def test_the_requester_of_a_task_does_not_approve_its_calls_where_there_are_credentials() -> None:
    model = ScriptedModel(
        tool_call("deploy", version="1.4"), "done", tool_call("deploy", version="2"), "done"
    )
    admin = Caller(requested_by="admin", all_tenants=True)
    async with mesh_for(Deployer, model=model) as mesh:
        for by in (admin, ANN):
            request = TaskRequest(agent_id="deployer", payload={"text": "Ship"})
            task_id = (await mesh.mesh.get(Tasks).submit(request, by)).task_id
            [question] = await mesh.questions()
            if by is ANN:
                await mesh.mesh.get(Keys).create("ann")
                with pytest.raises(Forbidden, match="ann requested this task, and may not approve"):
                    await answer(mesh, question, {"approve": True})
            await answer(mesh, question, {"approve": True}, admin)
            assert (await mesh.outcome(task_id)).text == "done"


async def test_a_rule_may_take_two_approvers_of_whom_one_made_the_task() -> None:
    rule = {"tool": "deploy", "count": 2, "not_requester": False}
    settings = {"approvals": {"rules": [rule]}, "keys": {"required": True}}
    model = ScriptedModel(tool_call("deploy", version="1.4"), "done")
    async with mesh_for(Deployer, model=model, **settings) as mesh:
        request = TaskRequest(agent_id="deployer", payload={"text": "Ship"})
        task_id = (await mesh.mesh.get(Tasks).submit(request, ANN)).task_id
        [question] = await mesh.questions()
        await answer(mesh, question, {"approve": True})
        with pytest.raises(Conflict, match="ann has approved this, and it takes another"):
            await answer(mesh, question, {"approve": True})
        assert deployed(mesh) == [] and (await mesh.mesh.get(Tasks).task(task_id)).waits[0].subject[
            "approved_by"
        ] == ["ann"]
        await answer(mesh, question, {"approve": True}, Caller(requested_by="bob"))
        assert (await mesh.outcome(task_id)).text == "done"
        given = mesh.events("approval.given").payloads
        assert [event["decided_by"] for event in given] == ["ann", "bob"]


async def test_a_call_too_long_to_be_shown_whole_is_refused_without_a_question() -> None:
    model = ScriptedModel(tool_call("deploy", version="x" * 64_000), "done")
    async with mesh_for(Deployer, model=model) as mesh:
        assert (await mesh.outcome(await began(mesh, "deployer", "Ship"))).text == "done"
        assert "its arguments are too long to be shown" in model.requests[1].messages[-1].content
        assert deployed(mesh) == [] and not mesh.events("approval.requested").payloads


async def test_the_model_hears_why_a_call_was_denied() -> None:
    model = ScriptedModel(tool_call("deploy", version="1.4"), "a pity")
    async with mesh_for(Deployer, model=model) as mesh:
        task_id = await began(mesh, "deployer", "Ship 1.4")
        [question] = await mesh.questions()
        await answer(mesh, question, {"approve": False, "reason": "not on a Friday"})
        assert (await mesh.outcome(task_id)).text == "a pity"
        assert deployed(mesh) == []
        assert "ann denied it: not on a Friday" in str(model.requests[1].messages[-1].content)
        [denied] = mesh.events("approval.denied").payloads
        assert (denied["decided_by"], denied["reason"]) == ("ann", "not on a Friday")


async def test_a_call_that_nobody_approves_counts_as_denied() -> None:
    model = ScriptedModel(tool_call("deploy", version="1.4"), "a pity")
    hour = {"patience_days": 1 / 24}
    async with mesh_for(Deployer, model=model, clock=ManualClock(), people=hour) as mesh:
        task_id = await began(mesh, "deployer", "Ship 1.4")
        await mesh.questions()
        await mesh.advance(3601)
        assert (await mesh.outcome(task_id)).text == "a pity"
        assert deployed(mesh) == [] and mesh.events("approval.expired")
        assert "it was not approved in time" in str(model.requests[1].messages[-1].content)


async def test_calls_side_by_side_are_approved_one_by_one() -> None:
    calls = [tool_call("deploy", version=str(n)) for n in range(3)]
    model = ScriptedModel(calls, "done")
    async with mesh_for(Deployer, model=model) as mesh:
        task_id = await began(mesh, "deployer", "Ship all")
        for _ in range(3):
            question, *_others = await mesh.questions()
            version = question.subject["arguments"]["version"]
            await answer(mesh, question, {"approve": version != "1", "reason": f"no {version}"})
            async with asyncio.timeout(240):
                while question.id in {one.id for one in (await mesh.mesh.get(Inbox).page("default")).items}:
                    await asyncio.sleep(0.01)
        assert (await mesh.outcome(task_id)).text == "done"
        told = [str(message.content) for message in model.requests[-1].messages[-3:]]
        assert [("denied" in text, "runs" in text) for text in told] == [
            (False, True),
            (True, False),
            (False, True),
        ]
        assert sorted(deployed(mesh)) == ["0@test", "2@test"]


async def test_arguments_that_do_not_fit_are_nobodys_to_approve() -> None:
    model = ScriptedModel(tool_call("deploy", versoin="1.4"), "oh")
    async with mesh_for(Deployer, model=model) as mesh:
        assert (await mesh.ask("deployer", "Ship 1.4")).text == "oh"
        assert "versoin" in str(model.requests[1].messages[-1].content)
        assert not mesh.events("approval.requested")


ONCE = {"approvals": {"rules": [{"tool": "look", "ask": "once", "approvers": ["bob"]}]}}


async def test_once_asks_for_the_first_call_of_a_task() -> None:
    replies = [tool_call("look", path=str(n)) for n in range(3)]
    model = ScriptedModel(*replies, "seen", *replies[:1], "seen again")
    async with mesh_for(Deployer, model=model, **ONCE) as mesh:
        for text in ("seen", "seen again"):
            task_id = await began(mesh, "deployer", "Look")
            [question] = await mesh.questions()
            with pytest.raises(Forbidden, match="bob may"):
                await answer(mesh, question, {"approve": True})
            await answer(mesh, question, {"approve": True}, Caller(requested_by="bob"))
            assert (await mesh.outcome(task_id)).text == text
        assert len(mesh.events("approval.requested")) == 2 and len(mesh.events("tool.called")) == 4


async def test_a_rule_may_let_a_tool_run_that_asks_by_itself() -> None:
    rules = [{"tool": "deploy", "arguments": {"environment": "test"}, "ask": "never"}]
    model = ScriptedModel(
        tool_call("deploy", version="1"), tool_call("deploy", version="2", environment="prod")
    )
    async with mesh_for(Deployer, model=model, approvals={"rules": rules}) as mesh:
        await began(mesh, "deployer", "Ship")
        [question] = await mesh.questions()
        assert question.subject["arguments"]["environment"] == "prod"
        assert deployed(mesh) == ["1@test"]

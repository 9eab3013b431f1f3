"""Calls that a person approves with other arguments: what runs, who is asked again, and who is told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import AfterValidator

from meshwright import Agent, Capability, TaskRequest, ToolFailed, tool
from meshwright.core.access import Role
from meshwright.core.errors import Conflict, Forbidden, InvalidInput
from meshwright.core.messages import Caller
from meshwright.engine.events.inbox import Question
from meshwright.mesh.identity.operations import Operations
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import kept
from tests.support.lookup_agent import tool_answers

DEPLOY = tool_call("deploy", version="1.4")
STAGING = {"version": "1.4", "environment": "staging"}
PROD = {"version": "1.4", "environment": "prod"}
BY_PLACE = [
    {"tool": "deploy", "arguments": {"environment": "test"}, "approvers": ["ann"]},
    {"tool": "deploy", "arguments": {"environment": "staging"}, "ask": "never"},
    {"tool": "deploy", "arguments": {"environment": "prod"}, "approvers": ["bob"]},
]


def _released(version: str) -> str:
    if version == "0":
        raise ValueError("there is no such release")
    return version


class Deployer(Agent):
    """Deploys, where a person lets it."""

    agent_id = "deployer"
    capabilities = (Capability("deploying"),)
    prompt_text = "Deploy."
    remembers = False
    deployed: ClassVar[list[str]] = []
    replicas: ClassVar[int] = 1
    begun: ClassVar[asyncio.Event | None] = None

    @tool(needs_approval=True, idempotent=True)
    async def deploy(
        self, version: Annotated[str, AfterValidator(_released)], environment: str = "test"
    ) -> str:
        """Deploy a version."""
        self.deployed.append(f"{version}@{environment}")
        if self.begun is not None and not self.begun.is_set():
            self.begun.set()
            await asyncio.Event().wait()
        return f"{version} runs in {environment}"

    @tool(needs_approval=True, preview="_plan")
    async def scale(self, replicas: int) -> str:
        """Scale it."""
        self.deployed.append(str(replicas))
        return f"{replicas} run"

    async def _plan(self, replicas: int) -> dict[str, Any] | None:
        if replicas > 9:
            raise ToolFailed("the cluster has room for 9")
        return None if replicas == 0 else {"replicas": [self.replicas, replicas]}


@pytest.fixture(autouse=True)
def nothing_is_deployed() -> None:
    Deployer.deployed, Deployer.replicas, Deployer.begun = [], 1, None


def changed(reason: str = "", **arguments: Any) -> dict[str, Any]:
    return {"approve": True, "arguments": arguments, **({"reason": reason} if reason else {})}


async def began(mesh: MeshUnderTest, *, by: str = "carol") -> str:
    request = TaskRequest(agent_id="deployer", payload={"text": "Ship 1.4"})
    return (await mesh.mesh.get(Tasks).submit(request, Caller(requested_by=by))).task_id


async def asked(mesh: MeshUnderTest, *, after: Question | None = None) -> Question:
    """The one question that is open, other than the one before it."""
    async with asyncio.timeout(60):
        while (question := (await mesh.questions())[0]).wait_id == (after.wait_id if after else ""):
            await asyncio.sleep(0.01)
    return question


async def test_a_call_runs_with_the_arguments_of_its_approver() -> None:
    model = ScriptedModel(DEPLOY, "done")
    async with mesh_for(Deployer, model=model) as mesh:
        task_id = await began(mesh)
        await mesh.answer(await asked(mesh), changed("try it first", **STAGING), by="ann")
        assert (await mesh.outcome(task_id)).text == "done"
        steps = await mesh.client.steps(task_id)
        [tool_step] = [step for step in steps if step.kind == "tool"]
        shown = await mesh.client.step(task_id, tool_step.path)
        [requested] = mesh.events("approval.requested").payloads
        [given] = mesh.events("approval.given").payloads
        [called] = mesh.events("tool.called").payloads
    assert Deployer.deployed == ["1.4@staging"]
    assert tool_answers(model) == [
        '(ann changed the arguments of this call to {"version": "1.4", "environment": "staging"})\n'
        "1.4 runs in staging"
    ]
    assert (requested["arguments"]["environment"], given["arguments"]) == ("test", STAGING)
    assert (called["changed_by"], "staging" in called["arguments"]) == ("ann", True)
    summaries = {step.name: step.summary for step in steps}
    assert summaries["approve deploy"] == (
        "approved by ann with version=1.4, environment=staging: try it first"
    )
    assert shown.arguments == '{"version": "1.4", "environment": "staging"}'


@pytest.mark.parametrize(
    ("value", "field", "told"),
    [
        (changed(version=14), "value.arguments.version", "must be text"),
        (changed(environment="prod"), "value.arguments.version", "is required"),
        (changed(version="1.4", region="eu"), "value.arguments.region", "there are version, environment"),
        ({"approve": True, "arguments": "1.4"}, "value.arguments", "must be an object"),
        ({"approve": False, "arguments": PROD}, "value.arguments", "A denial takes no arguments"),
        (changed(version="[redacted]"), "value.arguments", "hidden from you"),
        (changed(version="[secret:1]"), "value.arguments", "hidden from you"),
        (changed(version="*" * 10), "value.arguments", "hidden from you"),
        (changed(version="1" * 65_000), "value.arguments", "and may have 64,000"),
    ],
)
async def test_arguments_that_cannot_run_are_refused_at_the_door(
    value: dict[str, Any], field: str, told: str
) -> None:
    async with mesh_for(Deployer, model=ScriptedModel(DEPLOY, "done")) as mesh:
        task_id = await began(mesh)
        question = await asked(mesh)
        with pytest.raises(InvalidInput, match=told) as refused:
            await mesh.answer(question, value)
        assert refused.value.field == field
        await mesh.answer(question, {"approve": True})
        await mesh.outcome(task_id)
    assert Deployer.deployed == ["1.4@test"]


async def test_arguments_that_the_tool_refuses_are_asked_about_again() -> None:
    async with mesh_for(Deployer, model=ScriptedModel(DEPLOY, "done")) as mesh:
        task_id = await began(mesh)
        first = await asked(mesh)
        await mesh.answer(first, changed(version="0"))
        again = await asked(mesh, after=first)
        assert "there is no such release" in again.question and "1.4" in again.question
        assert "there is no such release" in again.subject["refused"]
        assert again.subject["arguments"] == {"version": "1.4", "environment": "test"}
        await mesh.answer(again, changed(version="1.5"))
        await mesh.outcome(task_id)
    assert Deployer.deployed == ["1.5@test"]


async def test_unchanged_arguments_are_an_approval_as_asked() -> None:
    model = ScriptedModel(tool_call("deploy", version="1.4", environment="token=Zk3x9Q2pLm8v"), "done")
    async with mesh_for(Deployer, model=model) as mesh:
        task_id = await began(mesh)
        question = await asked(mesh)
        assert "[hidden: 12 characters]" in question.subject["arguments"]["environment"]
        await mesh.answer(question, changed(**question.subject["arguments"]))
        await mesh.outcome(task_id)
        assert "arguments" not in mesh.events("approval.given").payloads[0]
    assert Deployer.deployed == ["1.4@token=Zk3x9Q2pLm8v"]
    assert tool_answers(model)[0].startswith("1.4 runs")


# Rules


async def test_arguments_under_another_rule_ask_its_approvers() -> None:
    model = ScriptedModel(DEPLOY, "done")
    async with mesh_for(Deployer, model=model, approvals={"rules": BY_PLACE}) as mesh:
        task_id = await began(mesh)
        first = await asked(mesh)
        await mesh.answer(first, changed(**PROD), by="ann")
        again = await asked(mesh, after=first)
        assert Deployer.deployed == [] and again.may_answer == ("bob",)
        assert again.subject["arguments"] == PROD
        assert (again.subject["changed_by"], again.subject["changed_from"]) == (
            "ann",
            {"environment": "test"},
        )
        assert "ann changed the arguments" in again.question
        with pytest.raises(Forbidden):
            await mesh.answer(again, {"approve": True}, by="ann")
        await mesh.answer(again, {"approve": True}, by="bob")
        await mesh.outcome(task_id)
    assert Deployer.deployed == ["1.4@prod"]
    assert tool_answers(model)[0].startswith("(ann changed the arguments of this call to")


async def test_a_denial_of_changed_arguments_runs_nothing() -> None:
    model = ScriptedModel(DEPLOY, "I could not.")
    async with mesh_for(Deployer, model=model, approvals={"rules": BY_PLACE}) as mesh:
        task_id = await began(mesh)
        first = await asked(mesh)
        await mesh.answer(first, changed(**PROD), by="ann")
        await mesh.answer(await asked(mesh, after=first), {"approve": False, "reason": "no"}, by="bob")
        await mesh.outcome(task_id)
    [told] = tool_answers(model)
    assert "ann changed the arguments" in told and "bob denied it: no" in told and Deployer.deployed == []


async def test_arguments_that_need_no_approval_run_at_once() -> None:
    model = ScriptedModel(DEPLOY, "done")
    async with mesh_for(Deployer, model=model, approvals={"rules": BY_PLACE}) as mesh:
        task_id = await began(mesh)
        await mesh.answer(await asked(mesh), changed(**STAGING), by="ann")
        await mesh.outcome(task_id)
        assert len(mesh.events("approval.requested")) == 1
    assert Deployer.deployed == ["1.4@staging"]


@pytest.mark.parametrize("changer", ["first", "second"])
async def test_of_two_approvers_both_approve_what_one_of_them_changed(changer: str) -> None:
    rule = {"tool": "deploy", "count": 2}
    async with mesh_for(Deployer, model=ScriptedModel(DEPLOY, "done"), approvals={"rules": [rule]}) as mesh:
        task_id = await began(mesh)
        first = await asked(mesh)
        if changer == "second":
            await mesh.answer(first, {"approve": True}, by="ann")
        await mesh.answer(first, changed(**PROD), by="bob")
        again = await asked(mesh, after=first)
        assert (again.subject["arguments"], again.subject["changed_by"]) == (PROD, "bob")
        await mesh.answer(again, {"approve": True}, by="ann")
        with pytest.raises(Conflict, match="takes another"):
            await mesh.answer(again, {"approve": True}, by="ann")
        assert Deployer.deployed == []
        await mesh.answer(again, {"approve": True}, by="bob")
        await mesh.outcome(task_id)
    assert Deployer.deployed == ["1.4@prod"]


async def test_the_requester_and_the_agent_change_no_arguments() -> None:
    settings = {"keys": {"required": True}}
    async with mesh_for(Deployer, model=ScriptedModel(DEPLOY, "done"), **settings) as mesh:
        await began(mesh, by="ann")
        question = await asked(mesh)
        for by in ("ann", "deployer"):
            with pytest.raises(Forbidden):
                await mesh.answer(question, changed(**PROD), by=by)


async def test_changed_arguments_cover_one_call_where_a_rule_asks_once() -> None:
    later = tool_call("deploy", version="2")
    model = ScriptedModel(DEPLOY, later, tool_call("deploy", version="3"), "done")
    rule = {"tool": "deploy", "ask": "once"}
    async with mesh_for(Deployer, model=model, approvals={"rules": [rule]}) as mesh:
        task_id = await began(mesh)
        first = await asked(mesh)
        await mesh.answer(first, changed(**STAGING))
        second = await asked(mesh, after=first)
        assert second.subject["arguments"]["version"] == "2"
        await mesh.answer(second, {"approve": True})
        await mesh.outcome(task_id)
    assert Deployer.deployed == ["1.4@staging", "2@test", "3@test"]


async def test_a_changed_call_asked_about_again_covers_itself_alone() -> None:
    model = ScriptedModel(tool_call("scale", replicas=3), tool_call("scale", replicas=4), "done")
    rule = {"tool": "scale", "ask": "once"}
    async with mesh_for(Deployer, model=model, approvals={"rules": [rule]}) as mesh:
        task_id = await began(mesh)
        question = await asked(mesh)
        for value in (changed(replicas=5), {"approve": True}):
            await mesh.answer(question, value)
            question = await asked(mesh, after=question)
        assert question.subject["arguments"] == {"replicas": 4}
        await mesh.answer(question, {"approve": True})
        await mesh.outcome(task_id)
    assert Deployer.deployed == ["5", "4"]


async def test_once_covers_no_call_whose_changed_arguments_were_refused() -> None:
    model = ScriptedModel([tool_call("deploy", version="2"), DEPLOY], "done")
    rule = {"tool": "deploy", "ask": "once"}
    async with mesh_for(Deployer, model=model, approvals={"rules": [rule]}) as mesh:
        task_id = await began(mesh)
        first, second = sorted(await mesh.questions(2), key=lambda one: one.subject["arguments"]["version"])
        await mesh.answer(second, {"approve": True})
        await mesh.answer(first, changed(version="0"))
        again = await asked(mesh, after=first)
        assert "refused" in again.subject and "1.4@test" not in Deployer.deployed
        await mesh.answer(again, changed(version="1.5"))
        await mesh.outcome(task_id)
    assert sorted(Deployer.deployed) == ["1.5@test", "2@test"]


async def test_once_under_one_rule_covers_no_call_under_another() -> None:
    places = ("staging", "prod")
    rules = [
        {"tool": "deploy", "arguments": {"environment": place}, "ask": "once", "approvers": [by]}
        for place, by in zip(places, ("ann", "bob"), strict=True)
    ]
    calls = [tool_call("deploy", version=version, environment=place) for version in "12" for place in places]
    async with mesh_for(Deployer, model=ScriptedModel(*calls, "done"), approvals={"rules": rules}) as mesh:
        task_id = await began(mesh)
        first = await asked(mesh)
        await mesh.answer(first, {"approve": True}, by="ann")
        second = await asked(mesh, after=first)
        assert second.subject["arguments"] == {"version": "1", "environment": "prod"}
        with pytest.raises(Forbidden, match="bob may"):
            await mesh.answer(second, {"approve": True}, by="ann")
        await mesh.answer(second, {"approve": True}, by="bob")
        await mesh.outcome(task_id)
    assert Deployer.deployed == ["1@staging", "1@prod", "2@staging", "2@prod"]


@pytest.mark.parametrize("role", [Role.SUBMITTER, Role.VIEWER, Role.CONTENTS])
async def test_only_an_approver_changes_arguments(role: Role) -> None:
    async with mesh_for(Deployer, model=ScriptedModel(DEPLOY)) as mesh:
        task_id = await began(mesh)
        question = await asked(mesh)
        caller = Caller(requested_by="carol", roles=frozenset({role}))
        with pytest.raises(Forbidden, match="approver"):
            await Operations(mesh.mesh, caller).answer(task_id, question.wait_id, changed(**PROD))


async def test_long_arguments_run_and_the_model_hears_how_they_begin() -> None:
    long = "x" * 60_000
    model = ScriptedModel(DEPLOY, "done")
    async with mesh_for(Deployer, model=model) as mesh:
        task_id = await began(mesh)
        await mesh.answer(await asked(mesh), changed(version="1.4", environment=long))
        await mesh.outcome(task_id)
    assert Deployer.deployed == [f"1.4@{long}"]
    assert "[cut: the first 4,000 of 60," in tool_answers(model)[0]


async def test_one_answer_for_many_takes_no_arguments() -> None:
    async with mesh_for(Deployer, model=ScriptedModel(DEPLOY)) as mesh:
        await began(mesh)
        await asked(mesh)
        with pytest.raises(InvalidInput, match="for one call alone") as refused:
            await mesh.client.answer_all(changed(**PROD), everything=True)
        assert refused.value.field == "value.arguments"


# Effects


async def test_a_changed_call_shows_its_own_effect_before_it_runs() -> None:
    async with mesh_for(Deployer, model=ScriptedModel(tool_call("scale", replicas=3), "done")) as mesh:
        task_id = await began(mesh)
        first = await asked(mesh)
        await mesh.answer(first, changed(replicas=5), by="ann")
        again = await asked(mesh, after=first)
        assert (again.subject["effect"], again.subject["changed_from"]) == (
            {"replicas": [1, 5]},
            {"replicas": 3},
        )
        assert Deployer.deployed == []
        await mesh.answer(again, {"approve": True}, by="ann")
        await mesh.outcome(task_id)
    assert Deployer.deployed == ["5"]


async def test_an_effect_is_shown_though_the_call_before_had_none() -> None:
    async with mesh_for(Deployer, model=ScriptedModel(tool_call("scale", replicas=0), "done")) as mesh:
        task_id = await began(mesh)
        first = await asked(mesh)
        assert "effect" not in first.subject
        await mesh.answer(first, changed(replicas=5))
        again = await asked(mesh, after=first)
        assert again.subject["effect"] == {"replicas": [1, 5]} and Deployer.deployed == []
        await mesh.answer(again, {"approve": True})
        await mesh.outcome(task_id)
    assert Deployer.deployed == ["5"]


async def test_a_changed_call_runs_nothing_once_its_effect_is_another() -> None:
    model = ScriptedModel(tool_call("scale", replicas=3), "I could not.")
    async with mesh_for(Deployer, model=model) as mesh:
        task_id = await began(mesh)
        first = await asked(mesh)
        await mesh.answer(first, changed(replicas=5))
        again = await asked(mesh, after=first)
        Deployer.replicas = 4
        await mesh.answer(again, {"approve": True})
        await mesh.outcome(task_id)
    assert Deployer.deployed == [] and "its effect is another than was approved" in tool_answers(model)[0]


async def test_a_changed_call_without_an_effect_asks_about_the_one_before() -> None:
    async with mesh_for(Deployer, model=ScriptedModel(tool_call("scale", replicas=3), "done")) as mesh:
        task_id = await began(mesh)
        first = await asked(mesh)
        await mesh.answer(first, changed(replicas=50))
        again = await asked(mesh, after=first)
        assert again.subject["refused"] == "the cluster has room for 9"
        assert again.subject["effect"] == {"replicas": [1, 3]}
        await mesh.answer(again, {"approve": True})
        await mesh.outcome(task_id)
    assert Deployer.deployed == ["3"]


# Restarts


async def wait_of(mesh: Mesh, task_id: str, *, after: str = "") -> Any:
    while not (waits := [w for w in (await mesh.get(Tasks).task(task_id)).waits if w.wait_id != after]):
        await asyncio.sleep(0.01)
    return waits[0]


REQUEST = TaskRequest(agent_id="deployer", payload={"text": "Ship 1.4"})


async def test_a_call_cut_off_goes_on_with_changed_arguments(tmp_path: Path) -> None:
    Deployer.begun = asyncio.Event()
    async with kept(tmp_path, Deployer, model=ScriptedModel(DEPLOY)) as mesh:
        task_id = (await mesh.get(Tasks).submit(REQUEST)).task_id
        wait = await wait_of(mesh, task_id)
        await mesh.get(Tasks).answer(task_id, wait.wait_id, changed(**PROD))
        await Deployer.begun.wait()
    model = ScriptedModel("Done.")
    async with kept(tmp_path, Deployer, model=model) as mesh:
        assert (await mesh.get(Tasks).outcome(task_id)).success
    assert Deployer.deployed == ["1.4@prod"] * 2
    assert "changed the arguments" in tool_answers(model)[0]


@pytest.mark.parametrize("approvers", [["bob"], ["anonymous"]], ids=["others", "the same"])
async def test_rules_that_changed_since_decide_on_changed_arguments(
    tmp_path: Path, approvers: list[str]
) -> None:
    rules = {"approvals": {"rules": [{"tool": "deploy", "approvers": approvers}]}}
    async with kept(tmp_path, Deployer, model=ScriptedModel(DEPLOY)) as mesh:
        task_id = (await mesh.get(Tasks).submit(REQUEST)).task_id
        wait = await wait_of(mesh, task_id)
    async with kept(tmp_path, Deployer, model=ScriptedModel("Done."), **rules) as mesh:
        await mesh.get(Tasks).answer(task_id, wait.wait_id, changed(**PROD))
        if approvers == ["bob"]:
            again = await wait_of(mesh, task_id, after=wait.wait_id)
            assert (again.may_answer, again.subject["arguments"]) == (("bob",), PROD)
            bob = Caller(requested_by="bob")
            await mesh.get(Tasks).answer(task_id, again.wait_id, {"approve": True}, bob)
        assert (await mesh.get(Tasks).outcome(task_id)).success
    assert Deployer.deployed == ["1.4@prod"]

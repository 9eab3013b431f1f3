"""A caller says which shape an answer is to have: the same by every door, checked where the work ends."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, Field

from meshwright import Agent, BlockingClient, Capability, Client, Run, TaskRequest
from meshwright.agents.run.delegation import Delegation
from meshwright.agents.tools.tool import DelegationOptions
from meshwright.cli.tasks import ask, submit
from meshwright.client import TaskFields
from meshwright.core.errors import IdempotencyConflict, InvalidInput, TaskFailed
from meshwright.core.messages import Caller, Outcome, answer_schema
from meshwright.engine.work.record import TaskView
from meshwright.mesh.identity.rules import shown
from meshwright.models.structure import answer_shape, response_schema
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for
from meshwright.tools import ToolContext

FIRST = ["agent_id", "text", "payload", "shape", "thread_id", "budget_usd"]


class Verdict(BaseModel):
    score: int = Field(ge=0, le=10)
    remarks: list[str] = []


class Judge(Agent):
    """Answers by its model."""

    agent_id = "judge"
    capabilities = (Capability("judging"),)
    remembers = False
    prompt_text = "Judge."


class Fixed(Judge):
    """Answers in a shape of its own, whatever is wanted."""

    agent_id = "fixed"
    answers = Verdict


class Coded(Agent):
    """Answers by code."""

    agent_id = "coded"
    capabilities = (Capability("coding"),)
    remembers = False

    async def run(self, run: Run) -> dict[str, Any]:
        return {"score": len(run.task.text)}


class Chief(Agent):
    """Has the judge judge."""

    agent_id = "chief"
    capabilities = (Capability("leading"),)
    delegates_to = ("judge",)
    remembers = False

    async def run(self, run: Run) -> str:
        verdict = await run.delegate("judge", run.task.text, shape=Verdict)
        return f"{verdict.score} of 10"


def names_of(call: Callable[..., Any], *others: type) -> list[str]:
    """The names of a call's parameters in their order, those of its TypedDicts last."""
    named = [
        parameter.name
        for parameter in inspect.signature(call).parameters.values()
        if parameter.name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]
    return named + [name for other in others for name in other.__annotations__]


def test_every_door_names_the_fields_of_a_task_in_one_order() -> None:
    for kind in (Client, BlockingClient, MeshUnderTest):
        assert names_of(kind.ask, TaskFields)[:6] == FIRST
        assert names_of(kind.submit, TaskFields)[:6] == FIRST
    for delegate in (Run.delegate, ToolContext.delegate):
        assert names_of(delegate, DelegationOptions)[:6] == FIRST
    assert names_of(Delegation)[:6] == FIRST
    for command in (ask, submit):
        assert [parameter.name for parameter in command.params][:6] == FIRST
    http = [*TaskRequest.model_json_schema()["properties"]]
    assert http[:6] == FIRST
    assert {*names_of(Client.submit, TaskFields)} == {*http, "idempotency_key"}


async def test_a_model_answers_in_the_shape_that_its_caller_wants() -> None:
    model = ScriptedModel(*['{"score": 7}'] * 4)
    async with mesh_for(Judge, model=model) as mesh:
        assert await mesh.ask("judge", "Look.", shape=Verdict) == Verdict(score=7)
        assert await mesh.client.ask("judge", "Look.", shape=Verdict.model_json_schema()) == {"score": 7}
        request = TaskRequest(agent_id="judge", text="Look.")
        assert await mesh.ask(request, shape=Verdict) == Verdict(score=7)
        receipt = await mesh.client.submit("judge", "Look.", shape=Verdict)
        assert (await mesh.client.outcome(receipt)).result == {"score": 7}
        assert (await mesh.client.task(receipt.task_id)).shape == Verdict.model_json_schema()
    for request in model.requests:
        assert request.response_schema == response_schema(Verdict)


async def test_a_shape_that_every_answer_has_asks_for_nothing() -> None:
    model = ScriptedModel(*["Well."] * 3)
    async with mesh_for(Judge, model=model) as mesh:
        assert await mesh.ask("judge", "Look.", shape=str) == "Well."
        assert await mesh.ask("judge", "Look.", shape=dict[str, Any]) == {"text": "Well."}
        assert (await mesh.ask("judge", "Look.", shape=Outcome)).text == "Well."
    assert [request.response_schema for request in model.requests] == [None] * 3
    assert answer_schema(dict[str, int]) == {"type": "object", "additionalProperties": {"type": "integer"}}


async def test_an_answer_that_stays_of_another_shape_fails_and_is_not_the_agents_fault() -> None:
    wrong = ['{"score": 11}', "none", '{"score": "7"}']
    model = ScriptedModel(*wrong, '{"score": 7}')
    async with mesh_for(Judge, model=model) as mesh:
        receipt = await mesh.submit("judge", "Look.", shape=Verdict)
        outcome = await mesh.outcome(receipt)
        assert outcome.error is not None
        assert outcome.error.type == "ShapeMismatch"
        assert "even after two corrections: the answer: score must be a whole number" in outcome.error.message
        assert "score must be at most 10" in model.requests[1].messages[-1].content
        [card] = await mesh.client.scores("judging")
        assert card.success == 1
        again = await mesh.client.retry(receipt.task_id)
        assert again.begin == "start"  # its journal has the same answers
        assert await mesh.outcome(receipt, shape=Verdict) == Verdict(score=7)


async def test_an_agent_of_its_own_run_is_held_to_the_shape_at_its_end() -> None:
    async with mesh_for(Coded) as mesh:
        assert await mesh.ask("coded", "12345", shape=Verdict) == Verdict(score=5)
        with pytest.raises(TaskFailed, match=r"result\.score must be at most 10"):
            await mesh.ask("coded", "12345678901", shape=Verdict)
        with pytest.raises(TaskFailed, match=r"another shape than the task wants: result\.text is required"):
            await mesh.ask("coded", "1", shape={"required": ["text"]})


async def test_an_agents_own_answers_come_before_the_shape() -> None:
    model = ScriptedModel('{"score": 7}', '{"score": 7}')
    async with mesh_for(Fixed, model=model) as mesh:
        assert await mesh.ask("fixed", "Look.", shape={"required": ["score"]}) == {"score": 7, "remarks": []}
        with pytest.raises(TaskFailed, match=r"result\.grade is required"):
            await mesh.ask("fixed", "Look.", shape={"required": ["grade"]})
    assert {str(request.response_schema) for request in model.requests} == {str(response_schema(Verdict))}


async def test_a_delegation_sends_its_shape() -> None:
    model = ScriptedModel('{"score": 8}')
    async with mesh_for(Chief, Judge, model=model) as mesh:
        outcome = await mesh.ask("chief", "Look.")
        assert outcome.text == "8 of 10"
        [child] = await mesh.client.tasks(parent_task_id=outcome.task_id)
        assert (await mesh.client.task(child.task_id)).shape == Verdict.model_json_schema()
    assert model.requests[0].response_schema == response_schema(Verdict)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"type": "strin"}, "$: type must be one or several of"),
        ({"properties": {"a": {"type": 7}}}, "$.properties.a: type must be"),
        ({"type": "array"}, "must be the schema of an object"),
        ({"description": "x" * 20_000}, "a schema may have 16,384"),
        ({"$ref": "https://example.org"}, "leads nowhere"),
    ],
)
async def test_a_broken_shape_is_refused_at_the_door(shape: dict[str, Any], words: str) -> None:
    async with mesh_for(Judge) as mesh:
        for door in (mesh, mesh.client):
            with pytest.raises(InvalidInput) as refused:
                await door.submit("judge", "Look.", shape=shape)
            assert (refused.value.status, refused.value.field) == (422, "shape")
            assert words in refused.value.message
        assert not mesh.events("task.accepted")


async def test_a_repeat_has_the_same_shape() -> None:
    async with mesh_for(Coded) as mesh:
        first = await mesh.submit("coded", "1", shape=Verdict, idempotency_key="k")
        again = await mesh.submit("coded", "1", shape=Verdict, idempotency_key="k")
        assert first.task_id == again.task_id
        with pytest.raises(IdempotencyConflict):
            await mesh.submit("coded", "1", idempotency_key="k")


def test_a_schema_that_cannot_be_strict_goes_to_the_model_as_it_is() -> None:
    choice = {"enum": [{"title": "x"}]}
    free = {"type": "object", "properties": {"a": {"$ref": "#/properties/b"}, "b": choice}}
    assert response_schema(answer_shape(free)) == free
    strict = response_schema(answer_shape({"type": "object", "properties": {"b": choice}}))
    assert strict["properties"] == {"b": choice}
    assert (strict["required"], strict["additionalProperties"]) == (["b"], False)


def test_what_a_task_is_to_answer_is_hidden_with_its_contents() -> None:
    known = dict.fromkeys(TaskView.__struct_fields__, None)
    view = TaskView(
        **{**known, "attempts": (), "waits": (), "payload": {"a": 1}, "shape": {"title": "secret"}}
    )
    assert shown(view, Caller(requested_by="another")).shape is None

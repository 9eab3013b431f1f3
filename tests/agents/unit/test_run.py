"""A run: the talk of model and tools, and what is known of it afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, tool
from meshwright.core.messages import Usage
from meshwright.models.errors import ModelRefused
from meshwright.models.port import ModelReply, ToolCall
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from tests.support.lookup_agent import Clerk, a_clerk, tool_answers


@pytest.fixture
def clerk() -> type[Clerk]:
    return a_clerk()


def polling(*statuses: str) -> type[Agent]:
    """An agent with a tool whose result is each status in turn."""
    left = list(statuses)

    class Poller(Agent):
        agent_id = "poller"
        capabilities = (Capability("polling"),)

        @tool(idempotent=True)
        async def status(self) -> str:
            """Tell the status."""
            return left.pop(0)

        @tool(idempotent=True)
        async def edit(self) -> str:
            """Edit the file."""
            return "edited"

    return Poller


# The talk of model and tools


async def test_what_tools_answer_is_told_to_the_model_call_by_call(clerk: type[Clerk]) -> None:
    calls = [tool_call("look_up", word="fence"), tool_call("look_up", word="slot", page=2)]
    model = ScriptedModel(calls, tool_call("look_up", word="turn"), "Found them all.")
    async with mesh_for(clerk, model=model) as mesh:
        outcome = await mesh.ask("clerk", "Where are they?")
    assert outcome.text == "Found them all."
    assert tool_answers(model) == ["fence is on page 1", "slot is on page 2", "turn is on page 1"]
    asked = [call.id for message in model.requests[-1].messages for call in message.tool_calls]
    answered = [message.tool_call_id for message in model.requests[-1].messages if message.role == "tool"]
    assert asked == answered
    assert sorted(clerk.looked_up) == ["fence", "slot", "turn"]


async def test_the_same_calls_after_an_edit_run_again() -> None:
    poller = polling("1 failed", "passed")
    steps = ("status", "edit", "status")
    model = ScriptedModel(*map(tool_call, steps), "The tests pass.")
    async with mesh_for(poller, model=model) as mesh:
        assert (await mesh.ask("poller", "Repair it.")).success
    assert tool_answers(model) == ["1 failed", "edited", "passed"]


async def test_the_same_call_twice_in_one_reply_runs_twice(clerk: type[Clerk]) -> None:
    model = ScriptedModel([tool_call("look_up", word="fence")] * 2, "Page 1.")
    async with mesh_for(clerk, model=model) as mesh:
        assert (await mesh.ask("clerk", "Where is it?")).text == "Page 1."
    assert clerk.looked_up == ["fence", "fence"]
    assert model.requests[-1].tools


async def test_a_tool_that_does_not_exist_is_told_with_those_that_do(clerk: type[Clerk]) -> None:
    model = ScriptedModel(tool_call("fly", to="Rome"), "I cannot fly.")
    async with mesh_for(clerk, model=model) as mesh:
        assert (await mesh.ask("clerk", "Fly.")).text == "I cannot fly."
    [answer] = tool_answers(model)
    assert "there is no tool 'fly'" in answer
    assert "look_up" in answer


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ('{"word": "fen', "look_up was not run"),
        ("", "look_up was not run"),
        ("[]", "look_up was not run"),
        ("{}", "word: Field required"),
        ('{"word": 7}', "word: Input should be a valid string"),
        ('{"word": "fence", "book": 2}', "book: Extra inputs are not permitted"),
    ],
)
async def test_malformed_arguments_are_never_run_and_are_told(
    clerk: type[Clerk], arguments: str, complaint: str
) -> None:
    model = ScriptedModel(ToolCall(id="", name="look_up", arguments=arguments), "I was wrong.")
    async with mesh_for(clerk, model=model) as mesh:
        assert (await mesh.ask("clerk", "Where is it?")).text == "I was wrong."
        [called] = mesh.events("tool.called").payloads
    assert clerk.looked_up == []
    assert complaint in tool_answers(model)[0]
    assert (called["ok"], complaint in called["error"]) == (False, True)


@pytest.mark.parametrize(
    ("word", "said"), [("nothing", "there is no such word"), ("trouble", "ValueError: the book is torn")]
)
async def test_what_a_tool_failed_at_is_told_and_the_run_goes_on(
    clerk: type[Clerk], word: str, said: str
) -> None:
    model = ScriptedModel(tool_call("look_up", word=word), "It is not there.")
    async with mesh_for(clerk, model=model) as mesh:
        assert (await mesh.ask("clerk", "Where is it?")).text == "It is not there."
    assert said in tool_answers(model)[0]


async def test_a_model_that_refuses_fails_the_attempt_with_its_reason(clerk: type[Clerk]) -> None:
    model = ScriptedModel(ModelRefused("this is not a question"))
    async with mesh_for(clerk, model=model) as mesh:
        outcome = await mesh.ask("clerk", "?")
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.message) == ("ModelRefused", "this is not a question")


# What is known of it afterwards


async def test_an_outcome_says_which_model_and_sums_up_what_it_cost(clerk: type[Clerk]) -> None:
    def reply(**fields: Any) -> ModelReply:
        usage = Usage(prompt_tokens=100, completion_tokens=10)
        return ModelReply(model="big-1", usage=usage, cost_usd=0.25, **fields)

    asks = reply(tool_calls=(ToolCall(id="c1", name="look_up", arguments='{"word": "fence"}'),))
    async with mesh_for(clerk, model=ScriptedModel(asks, reply(content="Page 1."))) as mesh:
        outcome = await mesh.ask("clerk", "Where is it?")
        [ended] = mesh.events("attempt.ended")
    assert (outcome.model, outcome.cost_usd) == ("big-1", 0.5)
    assert outcome.usage == Usage(prompt_tokens=200, completion_tokens=20)
    assert (outcome.agent_id, outcome.capability, outcome.attempt) == ("clerk", "clerking", 1)
    assert ended.payload["usage"]["prompt_tokens"] == 200


async def test_the_road_of_a_task_is_told_in_order(clerk: type[Clerk]) -> None:
    model = ScriptedModel(tool_call("look_up", word="fence"), "Page 1.")
    async with mesh_for(clerk, model=model) as mesh:
        outcome = await mesh.ask("clerk", "Where is it?")
        names = [event.event_type for event in mesh.events(task_id=outcome.task_id)]
        called = mesh.events("model.called").payloads[0]
    assert [name for name in names if name != "trace.spans"] == [
        "task.accepted",
        "task.dispatched",
        "task.started",
        "model.called",
        "tool.called",
        "model.delta",
        "model.called",
        "attempt.ended",
        "task.succeeded",
    ]
    assert (called["user"], called["model"], called["tool_calls"]) == ("clerk", "scripted", ["look_up"])


async def test_tags_come_from_the_agent_or_else_from_its_prompt(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    prompt = "---\ndescription: d\nmodel: fast\ntags: [cheap]\n---\nAnswer.\n"
    for name in ("plain", "choosy"):
        (tmp_path / "prompts" / f"{name}.prompt").write_text(prompt)

    class Plain(Agent):
        agent_id = "plain"
        capabilities = (Capability("plainness"),)

    class Choosy(Agent):
        agent_id = "choosy"
        capabilities = (Capability("choice"),)

        def tags(self, task: Any) -> list[str]:
            return ["expensive" if "hard" in task.text else "easy"]

    model = ScriptedModel("a", "b")
    async with mesh_for(Plain, Choosy, model=model, project=tmp_path) as mesh:
        await mesh.ask("plain", "Something hard.")
        await mesh.ask("choosy", "Something hard.")
        payloads = mesh.events("model.called").payloads
    assert [(request.user, request.tags, request.model) for request in model.requests] == [
        ("plain", ("cheap",), "fast"),
        ("choosy", ("expensive",), "fast"),
    ]
    assert [payload["tags"] for payload in payloads] == [["cheap"], ["expensive"]]

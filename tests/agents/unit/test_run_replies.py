"""Replies that are no answer: empty ones are asked for again, and those cut off are continued."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, TaskRequest
from meshwright.agents.run.run import Run
from meshwright.core.messages import Usage
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ContentRefused, ModelRefused, ReplyCutOff
from meshwright.models.port import ModelReply, ToolCall
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import keeper, kept, told_of
from tests.support.lookup_agent import Clerk, a_clerk, tool_answers
from tests.support.recipe_agent import NO_SOUP, SOUP, SOUP_TEXT, Cook, said


def reply(content: str = "", **fields: Any) -> ModelReply:
    usage = Usage(prompt_tokens=100, completion_tokens=10, reasoning_tokens=10)
    return ModelReply(content=content, model="thinker", usage=usage, cost_usd=Decimal("0.01"), **fields)


CUT_CALL = reply(
    finish_reason="length", tool_calls=(ToolCall(id="c1", name="look_up", arguments='{"word": "fence"}'),)
)


async def asked(model: ScriptedModel, *agents: type[Agent]) -> tuple[Any, MeshUnderTest]:
    async with mesh_for(*(agents or (a_clerk(),)), model=model) as mesh:
        return await mesh.ask((*agents, Clerk)[0].agent_id, "Where is it?"), mesh


@pytest.mark.parametrize("empty", [reply(), reply("  \n"), reply(finish_reason="tool_calls")])
async def test_an_empty_reply_is_asked_for_again(empty: ModelReply) -> None:
    model = ScriptedModel(tool_call("look_up", word="fence"), empty, empty, "Page 1.")
    outcome, _ = await asked(model)
    assert (outcome.text, outcome.finish_reason) == ("Page 1.", "stop")
    assert "Your reply was empty" in model.requests[-1].messages[-1].content
    assert all(message.content or message.tool_calls for message in model.requests[-1].messages)


async def test_replies_that_stay_empty_fail_the_attempt() -> None:
    outcome, mesh = await asked(ScriptedModel(reply(), reply(), reply()))
    assert outcome.error.type == "EmptyReply"
    assert "thinker gave neither text nor a tool call, 3 times" in outcome.error.message
    assert "max_tokens" in outcome.error.message
    assert (outcome.success, outcome.cost_usd) == (False, Decimal("0.03"))
    assert len(mesh.events("model.called")) == 3


def cut(text: str) -> ModelReply:
    return reply(text, finish_reason="length")


async def test_an_answer_that_is_cut_off_is_continued() -> None:
    model = ScriptedModel(cut("The event log "), reply(), cut("is a table of the data"), reply("base."))
    outcome, mesh = await asked(model)
    assert outcome.text == "The event log is a table of the database."
    *_, said, last = model.requests[1].messages
    assert (said.role, said.content) == ("assistant", "The event log ")
    assert "Continue exactly where it stopped" in last.content
    texts = [payload["text"] for payload in mesh.events("reply.cut_off").payloads]
    assert texts == ["The event log ", "is a table of the data"]


@pytest.mark.parametrize("more", ["log is a table of the text.", "The event log is a table of the text."])
async def test_what_a_continuation_repeats_is_said_once(more: str) -> None:
    outcome, _ = await asked(ScriptedModel(cut("The event log is a table of"), reply(more)))
    assert outcome.text == "The event log is a table of the text."


async def test_an_answer_that_stays_cut_off_fails_and_is_kept() -> None:
    caught: list[ReplyCutOff] = []

    class Asker(Agent):
        agent_id = "asker"
        capabilities = (Capability("asking"),)

        async def run(self, run: Run) -> str:
            try:
                return await run.ask("What is it?")
            except ReplyCutOff as error:
                caught.append(error)
                raise

    outcome, mesh = await asked(ScriptedModel(*(cut(f"part {n} ") for n in range(20))), Asker)
    assert (outcome.error.type, outcome.finish_reason) == ("ReplyCutOff", "length")
    assert "Raise max_tokens in its prompt" in outcome.error.message
    parts = [payload["text"] for payload in mesh.events("reply.cut_off").payloads]
    assert len(parts) == 11
    assert caught[0].text == "".join(parts)


@pytest.mark.parametrize("again", ["A mesh is a net of", "a mesh is a net of nodes and"])
async def test_an_answer_ends_where_its_continuation_adds_nothing(again: str) -> None:
    text = "A mesh is a net of" if again.startswith("A") else "I think a mesh is a net of nodes and"
    outcome, mesh = await asked(ScriptedModel(cut(text), *[cut(again)] * 10))
    assert outcome.error.type == "ReplyCutOff"
    assert len(mesh.events("model.called")) == 2
    assert mesh.events("reply.cut_off").payloads[0]["text"] == text


async def test_a_call_that_is_cut_off_is_asked_for_again_with_more_room() -> None:
    clerk = a_clerk()
    model = ScriptedModel(CUT_CALL, tool_call("look_up", word="fence"), "Page 1.")
    outcome, mesh = await asked(model, clerk)
    assert outcome.text == "Page 1."
    assert clerk.looked_up == ["fence"]
    first, second, third = (request.max_tokens for request in model.requests)
    assert (second, third) == (2 * first, 2 * first)
    [cut_off] = mesh.events("reply.cut_off").payloads
    assert cut_off["tool_calls"] == [{"tool": "look_up", "arguments": '{"word": "fence"}'}]


async def test_where_there_is_no_more_room_the_model_is_told_to_write_less() -> None:
    refused = ModelRefused("max_tokens is too large: 2048")
    model = ScriptedModel(CUT_CALL, refused, tool_call("look_up", word="fence"), "Page 1.")
    outcome, _ = await asked(model)
    assert outcome.text == "Page 1."
    first, second, third, _ = model.requests
    assert [second.max_tokens, third.max_tokens] == [2 * first.max_tokens, first.max_tokens]
    assert "Write less in one reply" in third.messages[-1].content


async def test_a_call_that_stays_cut_off_is_not_run() -> None:
    clerk = a_clerk()
    outcome, _ = await asked(ScriptedModel(*[CUT_CALL] * 4), clerk)
    assert outcome.error.type == "ReplyCutOff"
    assert "in a tool call, which was not run" in outcome.error.message
    assert clerk.looked_up == []


async def test_an_answer_that_a_policy_held_back_is_asked_for_once_more() -> None:
    refused = ContentRefused("its policy forbids it")
    outcome, _ = await asked(ScriptedModel(refused, "Page 1."))
    assert outcome.text == "Page 1."
    outcome, mesh = await asked(ScriptedModel(refused, refused, "Never said."))
    assert outcome.error.type == "ContentRefused"
    assert len(mesh.model.requests) == 2  # type: ignore[attr-defined]


async def test_a_model_that_only_thought_gets_more_room() -> None:
    model = ScriptedModel(cut(""), "Page 1.")
    outcome, _ = await asked(model)
    assert outcome.text == "Page 1."
    assert model.requests[1].max_tokens == 2 * model.requests[0].max_tokens


async def test_an_answer_in_a_shape_that_is_cut_off_is_repaired_as_before() -> None:
    model = ScriptedModel(said(NO_SOUP[:20], finish_reason="length"), said(""), said(SOUP_TEXT))
    outcome, mesh = await asked(model, Cook)
    assert outcome.result == SOUP
    assert not mesh.events("reply.cut_off")


async def test_a_resumed_run_asks_again_for_what_was_empty_once(tmp_path: Path) -> None:
    first = keeper()
    async with kept(tmp_path, first, model=ScriptedModel(reply(), tool_call("hold"))) as mesh:
        task_id = (
            await mesh.get(Tasks).submit(TaskRequest(agent_id="keeper", payload={"text": "Do it."}))
        ).task_id
        await first.began.wait()
        await told_of(mesh, "model.called")
    model = ScriptedModel("Done.")
    async with kept(tmp_path, keeper(opened=True), model=model) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
    assert (outcome.text, outcome.attempt) == ("Done.", 1)
    assert tool_answers(model) == ["held"]
    assert len(model.requests) == 1

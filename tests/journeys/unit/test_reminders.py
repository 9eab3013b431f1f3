"""Reminders of questions that nobody answers, and the next person whom they go to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from meshwright import Agent, Capability, Run, tool
from meshwright.core.access import Role
from meshwright.core.errors import Forbidden
from meshwright.core.messages import Caller
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.inbox import Question
from meshwright.mesh.identity.operations import Operations
from meshwright.mesh.orchestration.reruns import Begin
from meshwright.parts.inbox.operations import InboxOperations
from meshwright.testing import ManualClock, MeshUnderTest, ScriptedModel, mesh_for, tool_call

SOON = 60
CLAIM = {"claim_seconds": 20}
PEOPLE = {"remind_seconds": SOON, "then": ["bob"]}


class Asker(Agent):
    agent_id = "asker"
    capabilities = (Capability("asking"),)
    prompt_text = "Ask."

    async def run(self, run: Run) -> str:
        match run.task.text:
            case "ada":
                return await run.ask_person("Which?", may_answer=["ada"])
            case "own":
                remind = timedelta(seconds=30)
                return await run.ask_person("Which?", may_answer=["ada"], remind=remind, then=["*"])
            case "never":
                return await run.ask_person("Which?", remind=timedelta(0))
            case "late":
                return await run.ask_person(
                    "Which?", expires=timedelta(seconds=60), remind=timedelta(seconds=90)
                )
            case "short":
                return await run.ask_person("Which?", expires=timedelta(seconds=90))
            case "twice":
                await run.step("look", self._look)
                first = await run.ask_person("Which?", may_answer=["ada"])
                if first == "fail":
                    raise ValueError("it failed")
                return first
        return await run.ask_person("Which?")

    async def _look(self) -> str:
        return "seen"


class Payer(Agent):
    agent_id = "payer"
    capabilities = (Capability("paying"),)
    prompt_text = "Pay."

    @tool(needs_approval=True)
    async def pay(self, amount: int) -> str:
        """Pay an amount."""
        return "paid"


def person(name: str, *roles: Role) -> Caller:
    named = frozenset(role.value for role in roles or (Role.APPROVER, Role.CONTENTS))
    return Caller(requested_by=name, roles=named)


ADA, BOB = person("ada"), person("bob", Role.SUBMITTER)


@pytest.fixture
async def mesh() -> AsyncIterator[MeshUnderTest]:
    async with mesh_for(Asker, clock=ManualClock(), people=PEOPLE, inbox=CLAIM) as mesh:
        yield mesh


async def ask(mesh: MeshUnderTest, text: str) -> tuple[str, Question]:
    task = await mesh.submit(agent_id="asker", payload={"text": text})
    [question] = await mesh.questions()
    return task.task_id, question


async def listed(mesh: MeshUnderTest) -> Question:
    [question] = (await InboxOperations(mesh.mesh, ADA).inbox()).items
    return question


async def answer(mesh: MeshUnderTest, caller: Caller, value: Any = "this") -> None:
    [question] = await mesh.questions()
    operations = Operations(mesh.mesh, caller)
    await operations.answer(question.task_id, question.wait_id, value, digest=question.digest or "")


async def reminded(mesh: MeshUnderTest, count: int) -> list[tuple[int, list[str]]]:
    """Wait for so many reminders; returns how many there were of their questions, and whom they went to."""
    async with (
        asyncio.timeout(60),
        aclosing(mesh.mesh.log.tail(EventFilter(event_type="question.reminded", after_seq=0))) as events,
    ):
        payloads = [(await anext(events)).payload for _ in range(count)]
    assert len(mesh.events("question.reminded")) <= count
    return [(payload["reminders"], [*payload.get("escalated_to", ())]) for payload in payloads]


async def test_a_question_is_reminded_of_once_and_then_goes_to_the_next_person(mesh: MeshUnderTest) -> None:
    task_id, asked = await ask(mesh, "ada")
    await mesh.advance(SOON - 1)
    assert not mesh.events("question.reminded")
    await mesh.advance(1)
    assert await reminded(mesh, 1) == [(1, [])]
    question = await listed(mesh)
    assert question.reminded_at == asked.since + timedelta(seconds=SOON)
    assert (question.may_answer, question.escalated_to) == (("ada",), None)
    with pytest.raises(Forbidden, match="answers the tasks of others"):
        await answer(mesh, BOB)
    await mesh.advance(SOON)
    await reminded(mesh, 2)
    question = await listed(mesh)
    assert (question.may_answer, question.escalated_to) == (("ada", "bob"), ("bob",))
    assert (question.id, question.digest, question.since) == (asked.id, asked.digest, asked.since)
    await mesh.advance(5 * SOON)
    assert await reminded(mesh, 2) == [(1, []), (2, ["bob"])]
    await answer(mesh, BOB)
    assert (await mesh.outcome(task_id)).text == "this"
    await mesh.advance(5 * SOON)
    assert len(await reminded(mesh, 2)) == 2


async def test_a_question_for_everybody_stays_so_as_it_goes_to_a_submitter(mesh: MeshUnderTest) -> None:
    task_id, _ = await ask(mesh, "anybody")
    with pytest.raises(Forbidden):
        await answer(mesh, BOB)
    await mesh.advance(2 * SOON)
    await reminded(mesh, 2)
    assert (await listed(mesh)).may_answer == ()
    with pytest.raises(Forbidden):
        await answer(mesh, person("sam", Role.SUBMITTER))
    await answer(mesh, BOB)
    assert (await mesh.outcome(task_id)).text == "this"


async def test_a_question_has_its_own_reminder_or_none(mesh: MeshUnderTest) -> None:
    never = await mesh.submit(agent_id="asker", payload={"text": "never"})
    await mesh.questions()
    await mesh.advance(5 * SOON)
    assert not mesh.events("question.reminded")
    await answer(mesh, ADA)
    await mesh.outcome(never.task_id)
    task_id, _ = await ask(mesh, "own")
    await mesh.advance(30)
    await reminded(mesh, 1)
    with pytest.raises(Forbidden, match="may not answer this; ada may"):
        await answer(mesh, person("eve"))
    await mesh.advance(30)
    assert await reminded(mesh, 2) == [(1, []), (2, ["*"])]
    await answer(mesh, person("eve"))
    assert (await mesh.outcome(task_id)).text == "this"


async def test_a_reminder_that_comes_after_the_end_fails_the_task_and_says_so(mesh: MeshUnderTest) -> None:
    outcome = await mesh.ask("asker", "late")
    assert (
        outcome.error is not None and "comes too late: the question expires before" in outcome.error.message
    )


async def test_a_claim_puts_a_reminder_off_until_it_is_over(mesh: MeshUnderTest) -> None:
    _, question = await ask(mesh, "anybody")
    inbox = InboxOperations(mesh.mesh, ADA)
    await mesh.advance(SOON - 5)
    await inbox.claim(question.id)
    await mesh.advance(19)
    assert not mesh.events("question.reminded")
    await mesh.advance(1)
    assert await reminded(mesh, 1) == [(1, [])]
    await mesh.advance(SOON - 5)
    await inbox.claim(question.id)
    await mesh.advance(10)
    assert len(await reminded(mesh, 1)) == 1
    await inbox.release_claim(question.id)
    await mesh.advance(1)
    assert await reminded(mesh, 2) == [(1, []), (2, ["bob"])]


async def test_a_claim_that_was_released_in_time_puts_nothing_off(mesh: MeshUnderTest) -> None:
    _, question = await ask(mesh, "anybody")
    inbox = InboxOperations(mesh.mesh, ADA)
    await mesh.advance(SOON - 5)
    await inbox.claim(question.id)
    await inbox.release_claim(question.id)
    await mesh.advance(5)
    assert await reminded(mesh, 1) == [(1, [])]


async def test_a_cancel_ends_reminders(mesh: MeshUnderTest) -> None:
    task_id, _ = await ask(mesh, "anybody")
    await Operations(mesh.mesh, person("root", Role.OPERATOR)).cancel(task_id)
    assert (await mesh.outcome(task_id)).status == "cancelled"
    await mesh.advance(5 * SOON)
    assert not mesh.events("question.reminded")


async def test_a_question_that_expires_is_not_reminded_of_again(mesh: MeshUnderTest) -> None:
    task_id, _ = await ask(mesh, "short")
    await mesh.advance(SOON)
    await mesh.advance(SOON)
    outcome = await mesh.outcome(task_id)
    assert outcome.error is not None and outcome.error.type == "WaitExpired"
    await mesh.advance(5 * SOON)
    assert await reminded(mesh, 1) == [(1, [])]


async def test_a_retry_and_a_fork_ask_anew_with_reminders_of_their_own(mesh: MeshUnderTest) -> None:
    task_id, _ = await ask(mesh, "twice")
    await mesh.advance(2 * SOON)
    await reminded(mesh, 2)
    await answer(mesh, BOB, "fail")
    assert not (await mesh.outcome(task_id)).success
    begin: Begin = "start"
    await Operations(mesh.mesh, person("root", Role.OPERATOR, Role.CONTENTS)).retry(task_id, begin=begin)
    question = (await mesh.questions())[0]
    assert question.may_answer == ("ada",) and question.escalated_to is None
    assert len(await reminded(mesh, 2)) == 2
    await mesh.advance(2 * SOON)
    assert (await reminded(mesh, 4))[2:] == [(1, []), (2, ["bob"])]
    await answer(mesh, BOB, "well")
    assert (await mesh.outcome(task_id)).text == "well"
    fork = await Operations(mesh.mesh, person("root", *Role)).fork(task_id, "1")
    await mesh.questions()
    await mesh.advance(2 * SOON)
    assert (await reminded(mesh, 6))[4:] == [(1, []), (2, ["bob"])]
    await answer(mesh, BOB, "other")
    assert (await mesh.outcome(fork.task_id)).text == "other"


async def test_an_approval_goes_to_the_next_person_who_may_change_its_arguments() -> None:
    model = ScriptedModel(tool_call("pay", amount=10), "Done.")
    rule = {"tool": "pay", "approvers": ["ada"], "remind_seconds": SOON, "then": ["bob"]}
    async with mesh_for(Payer, model=model, clock=ManualClock(), approvals={"rules": [rule]}) as mesh:
        task = await mesh.submit(agent_id="payer", payload={"text": "Pay 10."})
        await mesh.questions()
        await mesh.advance(2 * SOON)
        assert await reminded(mesh, 2) == [(1, []), (2, ["bob"])]
        await answer(mesh, BOB, {"approve": True, "arguments": {"amount": 5}})
        assert (await mesh.outcome(task.task_id)).text == "Done."
        [called] = mesh.events("tool.called").payloads
        assert json.loads(called["arguments"]) == {"amount": 5}

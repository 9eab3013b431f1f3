"""Several people and one inbox: who claims a question, and who answers it all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from meshwright import Agent, Capability, Run, tool
from meshwright.core.access import Role
from meshwright.core.errors import Conflict, Forbidden, NotFound
from meshwright.core.messages import Caller
from meshwright.mesh.identity.operations import Operations
from meshwright.parts.inbox.operations import InboxOperations
from meshwright.testing import ManualClock, MeshUnderTest, ScriptedModel, mesh_for, tool_call


class Asker(Agent):
    agent_id = "asker"
    capabilities = (Capability("asking"),)
    prompt_text = "Ask."

    async def run(self, run: Run) -> str:
        if run.task.text == "named":
            return await run.ask_person("Eve?", may_answer=["eve"])
        return await run.ask_person(f"{run.task.text}?")


class Payer(Agent):
    agent_id = "payer"
    capabilities = (Capability("paying"),)
    prompt_text = "Pay."

    @tool(needs_approval=True)
    async def pay(self, amount: int) -> str:
        """Pay an amount."""
        return "paid"


def person(name: str, *roles: Role, tenant_id: str = "default") -> Caller:
    named = frozenset(role.value for role in roles or (Role.APPROVER, Role.CONTENTS))
    return Caller(requested_by=name, tenant_id=tenant_id, roles=named)


ADA, BOB = person("ada"), person("bob")


def inbox(mesh: MeshUnderTest, caller: Caller = ADA) -> InboxOperations:
    return InboxOperations(mesh.mesh, caller)


async def answer(mesh: MeshUnderTest, caller: Caller, *, anyway: bool = False) -> None:
    [question] = await mesh.questions()
    operations = Operations(mesh.mesh, caller)
    await operations.answer(question.task_id, question.wait_id, "yes", anyway=anyway)


@pytest.fixture
async def mesh() -> AsyncIterator[MeshUnderTest]:
    async with mesh_for(Asker, clock=ManualClock()) as mesh:
        yield mesh


async def asked(mesh: MeshUnderTest, text: str = "Deploy") -> tuple[str, str]:
    """A task that asks, and the id of its question."""
    task = await mesh.submit(agent_id="asker", payload={"text": text})
    [question] = await mesh.questions()
    return task.task_id, question.id


async def owner(mesh: MeshUnderTest) -> str | None:
    [question] = (await inbox(mesh).inbox()).items
    return question.claimed_by


async def test_another_person_answers_a_claimed_question_only_deliberately(mesh: MeshUnderTest) -> None:
    task_id, question_id = await asked(mesh)
    claim = await inbox(mesh).claim(question_id)
    assert claim.claimed_until == mesh.mesh.runtime.clock.now() + timedelta(seconds=600)
    assert await owner(mesh) == "ada"
    with pytest.raises(Conflict, match=r"ada is looking at that question until .* UTC") as refused:
        await answer(mesh, BOB)
    assert refused.value.field == "anyway" and "--anyway" in refused.value.remedy
    [dry] = (await inbox(mesh, BOB).answer_all("yes", dry_run=True)).items
    [refusal] = (await inbox(mesh, BOB).answer_all("yes")).items
    assert dry.refused is not None and refusal.refused is not None
    assert "ada is looking" in dry.refused.message and "ada is looking" in refusal.refused.message
    with pytest.raises(Conflict, match="ada is looking"):
        await inbox(mesh, BOB).release_claim(question_id)
    await answer(mesh, BOB, anyway=True)
    assert (await mesh.outcome(task_id)).text == "yes"
    [ended] = (await inbox(mesh).inbox(ended=True)).items
    assert (ended.answered_by, ended.claimed_by) == ("bob", None)
    actions = [payload["action"] for payload in mesh.events("audit.recorded").payloads]
    assert actions.count("question.claimed") == 1


async def test_its_owner_answers_it_or_lets_it_go(mesh: MeshUnderTest) -> None:
    task_id, question_id = await asked(mesh)
    await inbox(mesh).claim(question_id)
    assert (await inbox(mesh).release_claim(question_id)).claimed_by is None
    assert await owner(mesh) is None
    assert (await inbox(mesh, BOB).claim(question_id)).claimed_by == "bob"
    await answer(mesh, BOB)
    assert (await mesh.outcome(task_id)).text == "yes"
    with pytest.raises(Conflict, match="That was answered by bob"):
        await inbox(mesh).claim(question_id)


async def test_of_two_claims_at_once_one_wins(mesh: MeshUnderTest) -> None:
    _, question_id = await asked(mesh)
    callers = [person(name) for name in ("ada", "bob", "cleo")]
    claims = [inbox(mesh, caller).claim(question_id) for caller in callers]
    results = await asyncio.gather(*claims, return_exceptions=True)
    [won] = [result for result in results if not isinstance(result, BaseException)]
    lost = [result for result in results if isinstance(result, Conflict)]
    assert len(lost) == 2 and all(f"{won.claimed_by} is looking" in error.message for error in lost)
    assert await owner(mesh) == won.claimed_by


async def test_a_claim_whose_owner_left_ends_after_its_time(mesh: MeshUnderTest) -> None:
    task_id, question_id = await asked(mesh)
    await inbox(mesh).claim(question_id)
    await mesh.advance(599)
    assert await owner(mesh) == "ada"
    await inbox(mesh).claim(question_id)  # she is still there
    await mesh.advance(599)
    assert await owner(mesh) == "ada"
    await mesh.advance(1)
    assert await owner(mesh) is None
    await answer(mesh, BOB)
    assert (await mesh.outcome(task_id)).text == "yes"


async def test_only_those_who_may_answer_claim(mesh: MeshUnderTest) -> None:
    _, question_id = await asked(mesh, "named")
    for caller in (person("ada", Role.VIEWER), person("sam", Role.SUBMITTER), ADA):
        with pytest.raises(Forbidden):
            await inbox(mesh, caller).claim(question_id)
    with pytest.raises(NotFound, match="There is no question"):
        await inbox(mesh, person("eve", tenant_id="acme")).claim(question_id)
    assert (await inbox(mesh, person("eve", Role.SUBMITTER)).claim(question_id)).claimed_by == "eve"


async def test_the_first_of_two_approvals_frees_the_question_for_the_second() -> None:
    model = ScriptedModel(tool_call("pay", amount=10), "Done.")
    rules = {"rules": [{"tool": "pay", "count": 2}]}
    async with mesh_for(Payer, model=model, approvals=rules) as mesh:
        task = await mesh.submit(agent_id="payer", payload={"text": "Pay 10."})
        [question] = await mesh.questions()
        await inbox(mesh).claim(question.id)
        for caller in (ADA, BOB):
            operations = Operations(mesh.mesh, caller)
            await operations.answer(task.task_id, question.wait_id, {"approve": True})
        assert (await mesh.outcome(task.task_id)).text == "Done."

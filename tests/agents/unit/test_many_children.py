"""A task that delegates many others pays the same for each: it is resumed once, with the last answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshwright import Agent, Capability, Delegation, Run
from meshwright.testing import MeshUnderTest, mesh_for
from tests.support.function_calls import FunctionCalls

FEW, MANY = 20, 160
MAX_GROWTH = 1.15


class Child(Agent):
    """Ends once no other is about to."""

    agent_id = "child"
    capabilities = (Capability("one"),)
    turn: asyncio.Semaphore
    went_on: asyncio.Event

    async def run(self, run: Run) -> str:
        number = int(run.task.payload["number"])
        if run.task.payload["how"] == "first" and number > 0:
            await self.went_on.wait()
        await self.turn.acquire()  # until the parent has the answer of the one before
        if number in run.task.payload["failing"]:
            raise ValueError(f"child {number} is broken")
        return f"child {number}"


class Parent(Agent):
    """Delegates to many, in several ways."""

    agent_id = "parent"
    capabilities = (Capability("all"),)
    delegates_to = ("child",)

    async def run(self, run: Run) -> dict[str, Any]:
        how, count = run.task.payload["how"], int(run.task.payload["count"])
        failing = run.task.payload.get("failing", [])
        delegations = [
            Delegation("child", f"{n}", payload={"number": n, "how": how, "failing": failing})
            for n in range(count)
        ]
        answers: list[Any]
        if how == "delegate_all":
            answers = await run.delegate_all(delegations, return_exceptions=True)
        elif how == "gather":
            calls = [run.delegate("child", one.text, payload=one.payload) for one in delegations]
            answers = await run.gather(*calls)
        else:
            first, others = self.first(run, delegations[0]), run.delegate_all(delegations[1:])
            answer, other_answers = await run.gather(first, others)
            answers = [answer, *other_answers]
        return {"answers": [answer if isinstance(answer, str) else repr(answer) for answer in answers]}

    async def first(self, run: Run, delegation: Delegation) -> str:
        answer = await run.delegate("child", delegation.text, payload=delegation.payload)
        await run.progress(f"had {answer}")
        return answer


async def answers_of(mesh: MeshUnderTest, **payload: Any) -> list[str]:
    outcome = await mesh.ask("parent", "all", payload=payload)
    assert outcome.result is not None
    return list(outcome.result["answers"])


def resumptions(mesh: MeshUnderTest) -> int:
    return sum(event.agent_id == "parent" for event in mesh.events("task.resumed"))


@pytest.fixture
async def mesh() -> AsyncIterator[MeshUnderTest]:
    turn, went_on = asyncio.Semaphore(1), asyncio.Event()
    child = type("TestChild", (Child,), {"turn": turn, "went_on": went_on})
    async with mesh_for(Parent, child) as mesh:
        mesh.mesh.runtime.listen("#", lambda event: turn.release(), ("wait.ended",))
        mesh.mesh.runtime.listen("#", lambda event: went_on.set(), ("run.progress",))
        yield mesh


@pytest.mark.parametrize("how", ["delegate_all", "gather"])
async def test_a_parent_is_resumed_once_though_its_children_end_one_by_one(
    mesh: MeshUnderTest, how: str
) -> None:
    assert await answers_of(mesh, how=how, count=FEW) == [f"child {n}" for n in range(FEW)]
    assert resumptions(mesh) == 1


async def test_children_that_fail_resume_no_parent_that_waits_for_the_others(mesh: MeshUnderTest) -> None:
    answers = await answers_of(mesh, how="delegate_all", count=5, failing=[0, 3])
    assert [answer.startswith("DelegationFailed") for answer in answers] == [True, False, False, True, False]
    assert resumptions(mesh) == 1


async def test_code_behind_one_delegation_goes_on_while_others_are_open(mesh: MeshUnderTest) -> None:
    assert await answers_of(mesh, how="first", count=5) == [f"child {n}" for n in range(5)]
    assert resumptions(mesh) == 2


@pytest.mark.parametrize("how", ["delegate_all", "gather"])
async def test_each_of_many_children_costs_as_much_as_one_of_few(mesh: MeshUnderTest, how: str) -> None:
    await answers_of(mesh, how=how, count=5)
    counts = {}
    for count in (FEW, MANY):
        with FunctionCalls() as calls:
            await answers_of(mesh, how=how, count=count)
        counts[count] = calls.count / count
    assert counts[MANY] <= counts[FEW] * MAX_GROWTH

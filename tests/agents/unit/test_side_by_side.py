"""Concurrent work of a run: delegations, steps and calls of tools, through waits and failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from meshwright import Agent, Capability, Delegation, tool
from meshwright.agents.run.run import Run
from meshwright.core.errors import DelegationFailed
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ManualClock, ScriptedModel, mesh_for, tool_call

MANY = 50


class Helper(Agent):
    """Echoes what it is asked, and fails at what it cannot."""

    agent_id = "helper"
    capabilities = (Capability("helping"),)

    async def run(self, run: Run) -> str | dict[str, Any]:
        if "fail" in run.task.text:
            raise DelegationFailed("cannot")
        counted = {"n": run.task.payload["n"]} if "n" in run.task.payload else {}
        return {"text": f"did {run.task.text}", **counted}


class Answer(BaseModel):
    text: str
    n: int


def author(run: Callable[[Agent, Run], Awaitable[Any]], **fields: Any) -> type[Agent]:
    own = {
        "agent_id": "author",
        "capabilities": (Capability("writing"),),
        "delegates_to": ("helper", "helping"),
    }
    return type("Author", (Agent,), {**own, "run": run, **fields})


async def by_gather(self: Agent, run: Run) -> str:
    return ", ".join(await asyncio.gather(run.delegate("helper", "one"), run.delegate("helper", "two")))


async def by_the_runs_gather(self: Agent, run: Run) -> str:
    return ", ".join(await run.gather(run.delegate("helper", "one"), run.delegate("helper", "two")))


async def by_a_group(self: Agent, run: Run) -> str:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(run.delegate("helper", text)) for text in ("one", "two")]
    return ", ".join(task.result() for task in asked)


async def by_name_and_capability(self: Agent, run: Run) -> str:
    wanted = [Delegation("helper", "one"), Delegation(capability="helping", text="two")]
    return ", ".join(await run.delegate_all(wanted))


@pytest.mark.parametrize("run", [by_gather, by_the_runs_gather, by_a_group, by_name_and_capability])
async def test_delegations_run_side_by_side_and_answer_in_order(run: Any) -> None:
    async with mesh_for(author(run), Helper) as mesh:
        outcome = await mesh.ask("author", "Do it.")
        accepted = mesh.events("task.accepted")
        waiting = mesh.events("task.waiting", task_id=outcome.task_id)
    assert (outcome.status, outcome.text) == ("succeeded", "did one, did two")
    assert len(accepted) == 3
    assert len({event.payload["key"] for event in waiting}) == 2


async def test_of_many_delegations_the_one_that_fails_leaves_the_others() -> None:
    async def run(self: Agent, run: Run) -> dict[str, Any]:
        wanted = [Delegation("helper", "fail" if n == 7 else str(n)) for n in range(MANY)]
        answers = await run.delegate_all(wanted, return_exceptions=True)
        return {"answers": [str(answer) for answer in answers]}

    async with mesh_for(author(run), Helper) as mesh:
        outcome = await mesh.ask("author", "Do it.")
        accepted = mesh.events("task.accepted")
    assert outcome.result is not None
    expected = [f"did {n}" for n in range(MANY)]
    expected[7] = "helper did not succeed: cannot"
    assert outcome.result["answers"] == expected
    assert len(accepted) == MANY + 1


async def test_what_is_no_delegation_is_refused_before_any_starts() -> None:
    async def run(self: Agent, run: Run) -> list[Any]:
        wanted: list[Any] = [Delegation("helper", "one"), {"agent_id": "helper", "text": "two"}]
        return await run.delegate_all(wanted)

    async with mesh_for(author(run), Helper) as mesh:
        outcome = await mesh.ask("author", "Do it.")
        accepted = mesh.events("task.accepted")
    assert outcome.error is not None
    assert "run.delegate_all got a dict as its item 1. Write Delegation(" in str(outcome.error)
    assert len(accepted) == 1


async def test_what_finished_is_kept_when_one_fails_and_the_others_are_cancelled() -> None:
    async def run(self: Agent, run: Run) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(run.delegate("helper", "fail"))
                group.create_task(run.delegate("helper", "one"))
        except ExceptionGroup:
            return await run.delegate("helper", "instead")
        return "never"

    async with mesh_for(author(run), Helper) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert (outcome.status, outcome.text) == ("succeeded", "did instead")


async def test_a_delegation_carries_data_both_ways() -> None:
    async def run(self: Agent, run: Run) -> dict[str, Any]:
        answer = await run.delegate("helper", "count", payload={"n": 7}, shape=Answer, timeout=5, deadline=60)
        data = await run.delegate("helper", "count", payload={"n": 8}, shape=dict)
        return {"n": answer.n, "text": answer.text, "data": data}

    async with mesh_for(author(run), Helper) as mesh:
        outcome = await mesh.ask("author", "Do it.")
        child = await mesh.mesh.get(Tasks).task(mesh.events("task.waiting").payloads[0]["child_task_id"])
    assert outcome.result == {"n": 7, "text": "did count", "data": {"text": "did count", "n": 8}}
    assert (child.timeout, (child.deadline_at - child.created_at).total_seconds()) == (5, 60)


async def test_an_answer_of_another_shape_fails_the_delegation() -> None:
    async def run(self: Agent, run: Run) -> str:
        return (await run.delegate("helper", "count", shape=Answer)).text

    async with mesh_for(author(run), Helper) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.error is not None
    assert outcome.error.type == "DelegationFailed"
    assert "helper did not succeed: The answer has another shape" in outcome.error.message


async def test_steps_and_a_delegation_run_side_by_side() -> None:
    counted: list[str] = []

    async def count(name: str) -> str:
        counted.append(name)
        return name

    async def run(self: Agent, run: Run) -> str:
        work = [
            run.step("a", lambda: count("a")),
            run.delegate("helper", "one"),
            run.step("b", lambda: count("b")),
        ]
        return ", ".join(await run.gather(*work))

    async with mesh_for(author(run), Helper) as mesh:
        outcome = await mesh.ask("author", "Do it.")
        finished = mesh.events("step.finished").payloads
    assert outcome.text == "a, did one, b"
    assert sorted(counted) == ["a", "b"]
    assert sorted(payload["name"] for payload in finished) == ["a", "b"]


async def test_a_tool_may_delegate_side_by_side() -> None:
    class Author(Agent):
        agent_id = "author"
        capabilities = (Capability("writing"),)
        delegates_to = ("helper",)

        @tool(idempotent=True)
        async def ask_both(self) -> str:
            """Ask twice."""
            assert this is not None
            return ", ".join(await asyncio.gather(this.delegate("helper", "1"), this.delegate("helper", "2")))

        async def run(self, run: Run) -> str:
            nonlocal this
            this = run
            return await run.converse()

    this: Run | None = None
    async with mesh_for(Author, Helper, model=ScriptedModel(tool_call("ask_both"), "Both did.")) as mesh:
        outcome = await mesh.ask("author", "Do it.")
        [called] = mesh.events("tool.called").payloads
    assert outcome.text == "Both did."
    assert called["result"] == "did 1, did 2"


async def test_what_a_run_leaves_behind_ends_with_it() -> None:
    ended = asyncio.Event()

    async def run(self: Agent, run: Run) -> str:
        async def forever() -> None:
            await run.step("begin", begun)
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def begun() -> None:
            started.set()

        started = asyncio.Event()
        background = asyncio.create_task(forever())
        await started.wait()
        await asyncio.sleep(0)
        assert not background.done()
        return "Done."

    async with mesh_for(author(run), Helper) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.text == "Done."
    assert ended.is_set()


# Time


@pytest.mark.far("hours of a mesh pass")
async def test_a_run_sleeps_without_a_slot_and_without_its_clock() -> None:
    async def run(self: Agent, run: Run) -> str:
        if run.task.text == "short":
            return "short"
        await run.progress("half way")
        await run.sleep(hours=2)
        return "rested"

    async with mesh_for(author(run, max_concurrency=1), clock=ManualClock()) as mesh:
        asleep = await mesh.submit(agent_id="author", payload={"text": "long"}, timeout=60)
        while not mesh.events("task.waiting", task_id=asleep.task_id):
            await asyncio.sleep(0.01)
        assert (await mesh.ask("author", "short")).text == "short"
        await mesh.advance(7_300)
        outcome = await mesh.outcome(asleep.task_id)
        [progress] = mesh.events("run.progress").payloads
    assert (outcome.status, outcome.text) == ("succeeded", "rested")
    assert progress["text"] == "half way"

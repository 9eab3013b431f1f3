"""A task that comes after another: it begins once that has ended, however it did."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meshwright import Agent, Capability, TaskRequest
from meshwright.agents.run.run import Run
from meshwright.core.errors import NotFound
from meshwright.core.messages import Caller
from meshwright.engine.stores.memory import Faults
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ScriptedModel, mesh_for
from tests.support.interrupted_mesh import keeper, kept


class Writer(Agent):
    """Writes, with what was said in the thread."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)


def request(agent_id: str, text: str = "Go.", **fields: str) -> TaskRequest:
    return TaskRequest(agent_id=agent_id, payload={"text": text}, **fields)


async def test_a_task_begins_when_the_one_before_it_has_ended_and_sees_its_answer() -> None:
    class Finder(keeper()):  # type: ignore[misc]
        async def run(self, run: Run) -> str:
            await self.hold()
            return "it is on page 7"

    model = ScriptedModel("Written.")
    async with mesh_for(Finder, Writer, model=model) as mesh:
        first = await mesh.submit(request("keeper", "Find it.", thread_id="book"))
        await Finder.began.wait()
        second = await mesh.submit(request("writer", "Write.", thread_id="book", after=first.task_id))
        assert (second.status, second.dispatched_to) == ("accepted", "")
        view = await mesh.mesh.get(Tasks).task(second.task_id)
        assert (view.status, view.after, view.attempts) == ("accepted", first.task_id, ())
        Finder.opened.set()
        assert (await mesh.outcome(second.task_id)).text == "Written."
        third = await mesh.submit(request("writer", thread_id="book", after=first.task_id))
        model.replies("At once.")
        assert (await mesh.outcome(third.task_id)).text == "At once."
    said = [message.content for message in model.requests[0].messages]
    assert said[1:] == ["Find it.", "it is on page 7", "Write."]


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_a_task_begins_also_when_the_one_before_it_did_not_succeed(end: str) -> None:
    class Failing(keeper()):  # type: ignore[misc]
        async def run(self, run: Run) -> str:
            await self.hold()
            raise ValueError("broken")

    async with mesh_for(Failing, Writer, model=ScriptedModel("Written.")) as mesh:
        first = await mesh.submit(request("keeper"))
        await Failing.began.wait()
        second = await mesh.submit(request("writer", after=first.task_id))
        if end == "cancelled":
            await mesh.mesh.get(Tasks).cancel(first.task_id)
        else:
            Failing.opened.set()
        assert (await mesh.outcome(first.task_id)).status == end
        assert (await mesh.outcome(second.task_id)).text == "Written."


async def test_a_task_that_has_not_begun_is_cancelled_at_once() -> None:
    class Held(keeper()):  # type: ignore[misc]
        async def run(self, run: Run) -> str:
            return await self.hold()

    model = ScriptedModel("Written.")
    async with mesh_for(Held, Writer, model=model) as mesh:
        first = await mesh.submit(request("keeper"))
        second = await mesh.submit(request("writer", after=first.task_id))
        third = await mesh.submit(request("writer", after=second.task_id))
        assert (await mesh.mesh.get(Tasks).cancel(second.task_id)).status == "cancelled"
        assert (await mesh.outcome(third.task_id)).text == "Written."
        Held.opened.set()
        assert (await mesh.outcome(first.task_id)).success
        assert (await mesh.mesh.get(Tasks).task(second.task_id)).attempts == ()
    assert len(model.requests) == 1


@pytest.mark.parametrize(("tenant", "after"), [("acme", None), ("default", "nothing")])
async def test_an_unknown_task_before_it_is_refused(tenant: str, after: str | None) -> None:
    async with mesh_for(Writer, model=ScriptedModel("Written.")) as mesh:
        known = await mesh.submit(request("writer"))
        caller = Caller(tenant_id=tenant)
        with pytest.raises(NotFound) as refused:
            await mesh.mesh.get(Tasks).submit(request("writer", after=after or known.task_id), caller)
    assert refused.value.field == "after"


async def test_tasks_begin_one_after_another_whatever_the_store_loses(seed: int) -> None:
    class Counter(Agent):
        """Counts the tasks under way."""

        agent_id = "counter"
        capabilities = (Capability("counting"),)
        under_way = most = 0

        async def run(self, run: Run) -> str:
            kind = type(self)
            kind.under_way += 1
            kind.most = max(kind.most, kind.under_way)
            await run.step("count", self.pause)
            kind.under_way -= 1
            return "counted"

        async def pause(self) -> None:
            for _ in range(5):
                await asyncio.sleep(0)

    faults = Faults(seed, duplicate=0.3, delay=0.5, reorder=0.5, conflict=0.2, lose=0.2)
    async with mesh_for(Counter, faults=faults) as mesh, asyncio.timeout(240):
        tasks = [await mesh.submit(request("counter"))]
        for _ in range(9):
            tasks.append(await mesh.submit(request("counter", after=tasks[-1].task_id)))
        outcomes = [await mesh.outcome(task.task_id) for task in tasks]
        begun = [event.task_id for event in mesh.events("task.started")]
    assert [outcome.text for outcome in outcomes] == ["counted"] * 10
    assert (begun, Counter.most) == ([task.task_id for task in tasks], 1)


async def test_what_waits_for_another_task_outlives_its_process(tmp_path: Path) -> None:
    class Held(keeper()):  # type: ignore[misc]
        async def run(self, run: Run) -> str:
            return await self.hold()

    async with kept(tmp_path, Held, Writer) as mesh:
        first = await mesh.get(Tasks).submit(request("keeper"))
        await Held.began.wait()
        second = await mesh.get(Tasks).submit(request("writer", after=first.task_id))
    Held.opened.set()
    async with kept(tmp_path, Held, Writer, model=ScriptedModel("Written.")) as mesh, asyncio.timeout(240):
        assert (await mesh.get(Tasks).outcome(second.task_id)).text == "Written."

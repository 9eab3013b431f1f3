"""A fork begins behind the step that is named: those within it are copied, those around it begin again."""

from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from meshwright import Agent, Capability, Run
from meshwright.agents.run.transcript import Transcript
from meshwright.core.access import Role
from meshwright.core.errors import Conflict, NotFound
from meshwright.core.messages import Caller, TaskRequest
from meshwright.mesh.identity.administration import Administration
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import mesh_for


def nesting(done: Counter[str]) -> type[Agent]:
    """An agent with a step in a step, which notes what it has done."""

    class Nesting(Agent):
        """Does one thing within another."""

        agent_id = "nesting"
        capabilities = (Capability("nesting"),)

        async def run(self, run: Run) -> str:
            await run.step("first", noted("first"))

            async def outer() -> str:
                await run.step("inner", noted("inner"))
                await run.step("last", noted("last"))
                return await noted("outer")()

            await run.step("outer", outer)
            if run.task.payload.get("ask"):
                await run.ask_person("Go on?")
            if run.task.payload.get("fail"):
                await run.step("broken", broken)
            return await run.step("end", noted("end"))

    def noted(name: str) -> Callable[[], Awaitable[str]]:
        async def step() -> str:
            done[name] += 1
            return name

        return step

    async def broken() -> None:
        raise ValueError("it is broken")

    return Nesting


async def ended(mesh: Mesh, **payload: object) -> str:
    tasks = mesh.get(Tasks)
    receipt = await tasks.submit(TaskRequest(agent_id="nesting", payload=payload))
    await tasks.outcome(receipt.task_id)
    return receipt.task_id


async def fork(mesh: Mesh, task_id: str, step: str) -> Transcript:
    """The steps of a fork that has ended well."""
    tasks = mesh.get(Tasks)
    forked = await tasks.fork(task_id, step, Caller(requested_by="bob"))
    outcome = await tasks.outcome(str(forked.task_id))
    assert outcome.text == "end", outcome.error
    view = await tasks.task(str(forked.task_id))
    assert (view.requested_by, view.thread_id) == ("bob", forked.task_id)
    [transcript] = await tasks.transcripts(str(forked.task_id))
    return transcript


@pytest.mark.parametrize(
    ("step", "again", "copied"),
    [
        ("1", {"inner", "last", "outer", "end"}, ["1"]),
        ("2", {"end"}, ["1", "2", "2.1", "2.2"]),
        ("2.1", {"last", "outer", "end"}, ["1", "2.1"]),
        ("2.2", {"outer", "end"}, ["1", "2.1", "2.2"]),
        ("3", set(), ["1", "2", "2.1", "2.2", "3"]),
    ],
)
async def test_a_fork_does_again_just_what_comes_behind_its_step(
    step: str, again: set[str], copied: list[str]
) -> None:
    done = Counter[str]()
    async with mesh_for(nesting(done)) as under_test:
        task_id = await ended(under_test.mesh)
        assert set(done.values()) == {1}
        done.clear()
        transcript = await fork(under_test.mesh, task_id, step)
        assert done == Counter(again)
        shown = [transcript.summary(path) for path in transcript.paths]
        assert sorted(summary.path for summary in shown if summary.is_copied) == copied
        assert sorted(summary.path for summary in shown) == ["1", "2", "2.1", "2.2", "3"]


async def test_a_fork_of_what_has_no_end_is_refused() -> None:
    async with mesh_for(nesting(Counter())) as under_test:
        mesh, tasks = under_test.mesh, under_test.mesh.get(Tasks)
        failed = await ended(mesh, fail=True)
        with pytest.raises(NotFound, match=r"no finished step '3'.*1, 2"):
            await tasks.fork(failed, "3")
        receipt = await tasks.submit(TaskRequest(agent_id="nesting", payload={"ask": True}))
        with pytest.raises(Conflict, match="still open"):
            await tasks.fork(receipt.task_id, "1")
        await tasks.cancel(receipt.task_id)
        await tasks.outcome(receipt.task_id)
        with pytest.raises(NotFound, match="There is no task 'nothing'"):
            await tasks.fork("nothing", "1")
        with pytest.raises(NotFound, match="There is no task"):
            await tasks.fork(failed, "1", Caller(tenant_id="other"))


async def test_a_fork_is_erased_with_the_task_that_it_goes_on_from() -> None:
    async with mesh_for(nesting(Counter())) as under_test:
        mesh, tasks = under_test.mesh, under_test.mesh.get(Tasks)
        task_id = await ended(mesh, name="Ann")
        forked = await tasks.fork(task_id, "1", Caller(requested_by="bob"))
        await tasks.outcome(str(forked.task_id))
        again = await tasks.fork(str(forked.task_id), "1")
        await tasks.outcome(str(again.task_id))
        admin = Caller(requested_by="root", roles=frozenset(Role), key_id="k")
        erased = await Administration(mesh, admin).erase(task_id=task_id)
        assert erased.tasks == 3
        for fork in (forked, again):
            assert (await tasks.task(str(fork.task_id))).payload == {}
        with pytest.raises(Conflict, match="erased"):
            await tasks.fork(task_id, "1")

"""Mistakes of an agent's author: each fails its attempt once, and names the author's file and line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, TaskRequest
from meshwright.agents.run.run import Run
from meshwright.core.errors import StoreUnavailable
from meshwright.core.messages import Outcome
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ModelRefused
from meshwright.testing import ScriptedModel, mesh_for
from tests.support.interrupted_mesh import kept, told_of


class Helper(Agent):
    """Answers by its model."""

    agent_id = "helper"
    capabilities = (Capability("helping"),)


def agent_with(run: Any, **fields: Any) -> type[Agent]:
    own = {"agent_id": "author", "capabilities": (Capability("writing"),), "delegates_to": ("helper",)}
    return type("Author", (Agent,), {**own, "run": run, **fields})


def line_of(function: Callable[..., Any], words: str) -> str:
    """The file and line of a function on which the words harness."""
    code = function.__code__
    lines = Path(code.co_filename).read_text().splitlines()[code.co_firstlineno - 1 :]
    number = next(n for n, line in enumerate(lines, start=code.co_firstlineno) if words in line)
    return f"{code.co_filename}:{number}: "


async def failed(agent: type[Agent], *replies: Any) -> Outcome:
    """The outcome of a task whose agent fails: after one attempt, begun once, and without an open end."""
    async with mesh_for(agent, Helper, model=ScriptedModel(*replies)) as mesh:
        outcome = await mesh.ask("author", "Do it.")
        assert mesh.events("task.started", task_id=outcome.task_id)
        assert not mesh.events("task.resumed")
        assert not mesh.events("task.waiting")
        assert not mesh.events("work.broke_off")
        again = await mesh.submit(agent_id="helper", payload={"text": "Still there?"})
        mesh.model.replies("Yes.")  # type: ignore[attr-defined]
        assert (await mesh.outcome(again.task_id)).success
    assert outcome.status == "failed"
    return outcome


async def return_a_list(self: Agent, run: Run) -> Any:
    return ["one", "two"]


async def return_a_number(self: Agent, run: Run) -> Any:
    return 7


async def return_an_object(self: Agent, run: Run) -> Any:
    return {"value": object()}


async def return_a_coroutine(self: Agent, run: Run) -> Any:
    return asyncio.sleep(0)


def run_without_async(self: Agent, run: Run) -> Any:
    return "Done."


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        (return_a_list, "run returns a list. Return text, or an object"),
        (return_a_number, "run returns an int. Return text, or an object"),
        (return_an_object, "run returns a dict that cannot be written as JSON"),
        (return_a_coroutine, "run returns a coroutine. Write `return await ...`"),
        (run_without_async, "run is not async. Write `async def run(self, run)`"),
    ],
)
async def test_a_run_that_returns_no_answer_fails_once(run: Any, complaint: str) -> None:
    outcome = await failed(agent_with(run))
    assert outcome.error is not None
    assert outcome.error.type == "AgentError"
    assert line_of(run, "def ") + complaint in outcome.error.message


async def forget_a_step(self: Agent, run: Run) -> str:
    value = run.step("value", one)
    return f"The value is {value}."


async def forget_a_delegation(self: Agent, run: Run) -> str:
    run.delegate("helper", "Help me.")  # type: ignore[unused-coroutine]
    return "Done."


async def forget_to_await_an_answer(self: Agent, run: Run) -> str:
    answer: Any = run.ask("What is it?")
    return answer.strip()


async def return_a_step(self: Agent, run: Run) -> Any:
    return run.step("value", one)


async def one() -> int:
    return 1


@pytest.mark.parametrize(
    ("run", "words", "name"),
    [
        (forget_a_step, "run.step(", "run.step"),
        (forget_a_delegation, "run.delegate(", "run.delegate"),
        (forget_to_await_an_answer, "run.ask(", "run.ask"),
        (return_a_step, "run.step(", "run.step"),
    ],
)
async def test_a_forgotten_await_is_named_with_its_line(run: Any, words: str, name: str) -> None:
    outcome = await failed(agent_with(run))
    assert outcome.error is not None
    assert outcome.error.type == "AgentError"
    assert f"{line_of(run, words)}{name}(...) is called and never awaited" in outcome.error.message
    assert f"Write `await {name}(...)`" in outcome.error.message


async def step_without_async(self: Agent, run: Run) -> str:
    return str(await run.step("one", lambda: 1))  # type: ignore[arg-type, return-value]


async def step_with_a_coroutine(self: Agent, run: Run) -> str:
    return str(await run.step("one", one()))  # type: ignore[arg-type]


async def step_with_an_object(self: Agent, run: Run) -> str:
    async def thing() -> object:
        return object()

    return str(await run.step("thing", thing))


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        (step_without_async, "the function of step 'one' is not async: it returns an int"),
        (step_with_a_coroutine, "step 'one' is given a coroutine, not a function"),
        (step_with_an_object, "step 'thing' returns an object that cannot be written as JSON"),
    ],
)
async def test_a_step_that_cannot_be_run_is_named_with_its_line(run: Any, complaint: str) -> None:
    outcome = await failed(agent_with(run))
    assert outcome.error is not None
    assert outcome.error.type == "AgentError"
    assert line_of(run, "await run.step(") + complaint in outcome.error.message


class Strange(BaseException):
    """No Exception."""


async def raise_in_a_group(error: BaseException) -> None:
    async def fail() -> None:
        raise error

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())


@pytest.mark.parametrize(
    ("error", "kind", "complaint"),
    [
        (KeyError("key"), "AgentError", "tasks of a group failed: KeyError: 'key'"),
        (Strange("odd"), "AgentError", "tasks of a group failed: Strange: odd"),
        (StoreUnavailable("the store is away"), "StoreUnavailable", "the store is away"),
        (ModelRefused("too hard"), "ModelRefused", "too hard"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_group_that_fails_fails_the_attempt_once(
    error: BaseException, kind: str, complaint: str
) -> None:
    async def run(self: Agent, run: Run) -> str:
        await raise_in_a_group(error)
        return "never"

    outcome = await failed(agent_with(run))
    assert outcome.error is not None
    assert (outcome.error.type, complaint in outcome.error.message) == (kind, True)
    assert outcome.error.message.startswith(line_of(raise_in_a_group, "async with"))


@pytest.mark.parametrize(
    "error", [Strange("odd"), asyncio.CancelledError()], ids=["Strange", "CancelledError"]
)
async def test_what_is_no_exception_fails_the_attempt_once(error: BaseException) -> None:
    async def run(self: Agent, run: Run) -> str:
        raise BaseExceptionGroup("by hand", [error])

    outcome = await failed(agent_with(run))
    assert outcome.error is not None
    assert type(error).__name__ in outcome.error.message


async def test_a_task_that_is_cancelled_within_a_group_ends_and_frees_its_slot() -> None:
    began = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("torn") from None

    async def run(self: Agent, run: Run) -> str:
        if run.task.text == "Are you free?":
            return "Yes."
        async with asyncio.TaskGroup() as group:
            group.create_task(stubborn())
            group.create_task(asyncio.Event().wait())
            await asyncio.sleep(0)
            began.set()
        return "never"

    async with mesh_for(agent_with(run, max_concurrency=1)) as mesh:
        receipt = await mesh.submit(agent_id="author", payload={"text": "Hold."})
        await began.wait()
        await mesh.mesh.get(Tasks).cancel(receipt.task_id)
        outcome = await mesh.outcome(receipt.task_id)
        assert outcome.status == "cancelled"
        assert (await mesh.ask("author", "Are you free?")).text == "Yes."


async def test_a_person_is_asked_about_a_step_also_within_a_group(tmp_path: Path) -> None:
    began = asyncio.Event()

    def author(pay: Callable[[], Any]) -> type[Agent]:
        async def run(self: Agent, run: Run) -> str:
            async with asyncio.TaskGroup() as group:
                paid = group.create_task(run.step("pay", pay, repeatable=False))
            return f"paid: {paid.result()}"

        return agent_with(run)

    async def hangs() -> None:
        began.set()
        await asyncio.Event().wait()

    async def never() -> None:
        raise AssertionError("it is not repeated")

    async with kept(tmp_path, author(hangs)) as mesh:
        request = TaskRequest(agent_id="author", payload={"text": "Pay."})
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        await began.wait()
    async with kept(tmp_path, author(never)) as mesh:
        waiting = await told_of(mesh, "task.waiting")
        await mesh.get(Tasks).answer(
            task_id, waiting.payload["key"], {"approve": False, "result": "7 dollars"}
        )
        assert (await mesh.get(Tasks).outcome(task_id)).text == "paid: 7 dollars"

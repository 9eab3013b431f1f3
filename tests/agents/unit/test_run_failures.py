"""Calls of a model that fail, and agents that go on without an answer: also after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meshwright import Agent, Capability, TaskRequest
from meshwright.agents.run.replies import RecordedError
from meshwright.agents.run.run import Run
from meshwright.core.errors import ModelError
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import (
    AllProvidersDown,
    BudgetExceeded,
    ContextTooLong,
    ModelTimeout,
    RateLimited,
    Unauthorized,
    Unsupported,
)
from meshwright.testing import ScriptedModel
from tests.support.interrupted_mesh import kept


class Careful(Agent):
    """Goes on where its model does not answer, and waits in a step until the test lets it."""

    agent_id = "careful"
    capabilities = (Capability("caring"),)
    caught: list[ModelError]
    began: asyncio.Event
    opened: asyncio.Event

    async def run(self, run: Run) -> str:
        try:
            first = await run.ask("What is it?")
        except ModelError as error:
            self.caught.append(error)
            first = "nobody knows"
        await run.step("wait", self.wait)
        return f"{first}; {await run.ask('And now?')}"

    async def wait(self) -> None:
        self.began.set()
        await self.opened.wait()


def careful() -> type[Careful]:
    return type(
        "TestCareful", (Careful,), {"caught": [], "began": asyncio.Event(), "opened": asyncio.Event()}
    )


async def test_a_resumed_run_hears_the_same_failure_and_asks_nobody_again(tmp_path: Path) -> None:
    first, second = careful(), careful()
    refusal = RateLimited("the provider wants us to wait", remedy="wait", retry_after_seconds=900)
    async with kept(tmp_path, first, model=ScriptedModel(refusal)) as mesh:
        request = TaskRequest(agent_id="careful", payload={"text": "Do it."})
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        await first.began.wait()
    second.opened.set()
    model = ScriptedModel("All is well.")
    async with kept(tmp_path, second, model=model) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
    assert (outcome.attempt, outcome.text) == (1, "nobody knows; All is well.")
    assert len(model.requests) == 1
    [before], [after] = first.caught, second.caught
    assert type(after) is type(before) is RateLimited
    assert (str(after), after.retry_after_seconds) == (str(before), 900)


@pytest.mark.parametrize(
    "error",
    [
        RateLimited("slow down", retry_after_seconds=2.5),
        ModelTimeout("no answer", remedy="give it longer"),
        AllProvidersDown("all are down"),
        Unauthorized("no key", field="api_key"),
        ContextTooLong("too long"),
        Unsupported("no tools", what="tools"),
        BudgetExceeded("no room", budget="month", remedy="raise it"),
        ModelError("it failed"),
    ],
    ids=lambda error: error.code,
)
def test_a_failure_is_kept_with_its_class_and_all_that_it_says(error: ModelError) -> None:
    error.attempts = 3
    kept = RecordedError.model_validate_json(RecordedError.from_error(error).model_dump_json())
    again = kept.error
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_a_failure_of_a_class_that_is_gone_is_still_a_failure() -> None:
    error = RecordedError(
        failed="Forgotten", message="it failed", fields={"remedy": "try again", "field": ""}
    ).error
    assert type(error) is ModelError
    assert (str(error), error.retryable) == ("it failed. try again", False)

"""A mesh on one file endures poison, agents that hang or misbehave, cancels, more than it can take."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from meshwright.agents.agent import Agent
from meshwright.agents.run.run import Run
from meshwright.core.capability import Capability
from meshwright.core.errors import DelegationFailed, MailboxFull
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.messages import TaskRequest
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.parts.proving.oracle import complaints
from tests.support.sqlite_mesh import evidence_of, up

# Poison


def poison(topic: str, payload: Any, task_id: str | None = None) -> Event:
    return Event(
        id=f"stranger/{new_id()}",
        event_type="stranger.spoke",
        topic=topic,
        time="2026-01-01T00:00:00Z",
        task_id=task_id,
        payload=payload,
    )


@pytest.mark.parametrize(
    "event",
    [
        poison("tasks.echo", "no dispatch at all"),
        poison("tasks.echo", {"task": {"task_id": "../../etc"}}),
        poison("task-results", {"task_id": "t", "status": "splendid"}, task_id="t"),
        poison("task-results", None, task_id="t"),
    ],
)
async def test_poison_on_a_topic_is_recorded_and_the_rest_flows_on(tmp_path: Path, event: Event) -> None:
    async with up(tmp_path) as running:
        before = await running.submit("echo", "before", thread_id="one")
        await running.mesh.runtime.publish(event)
        after = await running.submit("echo", "after", thread_id="one")
        dead = await running.event("message.dead_lettered")
        assert event.id in dead.id
        assert dead.payload["error"]["message"]
        assert [(await running.outcome(task_id)).success for task_id in (before, after)] == [True, True]
    async with up(tmp_path) as running:
        assert (await running.ask("echo", thread_id="one")).success
        letters = await running.mesh.log.query(EventFilter(event_type="message.dead_lettered"))
        assert len(letters) == 1, "it came again after a restart"
    assert complaints(await evidence_of(tmp_path)) == []


# Agents


class Sleeper(Agent):
    """Never answers."""

    agent_id = "sleeper"
    capabilities = (Capability("echoing", preferred=True),)
    max_concurrency = 1

    async def run(self, run: Run) -> str | dict[str, Any]:
        if run.task.text == "wake up":
            return "awake"
        await asyncio.Event().wait()
        raise AssertionError("it never comes here")


async def test_an_agent_that_hangs_runs_into_its_timeout_and_another_takes_over(tmp_path: Path) -> None:
    async with up(tmp_path, Sleeper) as running:
        request = TaskRequest(capability="echoing", payload={"text": "Hello"}, timeout=1.5)
        task_id = (await running.mesh.get(Tasks).submit(request)).task_id
        outcome = await running.outcome(task_id)
        assert (outcome.status, outcome.text) == ("succeeded", "you said: Hello")
        first, second = (await running.mesh.get(Tasks).task(task_id)).attempts
        assert (first.agent_id, second.agent_id) == ("sleeper", "echo")
        assert first.error is not None and first.error.type == "TaskTimeout"
        assert (await running.ask("sleeper", "wake up")).success, "its slot was not given back"
    assert complaints(await evidence_of(tmp_path)) == []


async def test_an_agent_that_hangs_and_has_no_other_times_out(tmp_path: Path) -> None:
    async with up(tmp_path, Sleeper) as running:
        outcome = await running.ask("sleeper", timeout=0.2, thread_id="one")
        assert (outcome.status, outcome.success) == ("timed_out", False)
        assert (await running.ask("sleeper", "wake up", thread_id="one")).success
    assert complaints(await evidence_of(tmp_path)) == []


class Stubborn(Agent):
    """Does not let itself be cancelled."""

    agent_id = "stubborn"
    capabilities = (Capability("persistence"),)
    released: asyncio.Event
    gone: asyncio.Event

    async def run(self, run: Run) -> str | dict[str, Any]:
        while not self.released.is_set():
            with suppress(asyncio.CancelledError):
                await self.released.wait()
        self.gone.set()
        return "too late"


async def test_an_agent_that_cannot_be_cancelled_holds_up_neither_its_task_nor_a_stop(tmp_path: Path) -> None:
    released, gone = asyncio.Event(), asyncio.Event()
    stubborn = type("TestStubborn", (Stubborn,), {"released": released, "gone": gone})
    async with up(tmp_path, stubborn) as running:
        outcome = await running.ask("stubborn", timeout=0.1, deadline=0.3)
        assert outcome.status == "timed_out"
        assert outcome.error is not None and outcome.error.type == "DeadlineExceeded"
    released.set()
    await gone.wait()
    async with up(tmp_path) as running:
        assert (await running.ask("echo")).success


class Odd(Agent):
    """Gives, or raises, what no file can hold."""

    agent_id = "odd"
    capabilities = (Capability("oddity"),)

    async def run(self, run: Run) -> str | dict[str, Any]:
        if run.task.text == "raise":
            raise ValueError("no file \udcff of that name")
        return {"object": object()} if run.task.text == "object" else "half a \ud83d pair"


@pytest.mark.parametrize("what", ["object", "raise", "half"])
async def test_an_answer_that_cannot_be_stored_fails_its_task_and_no_other(tmp_path: Path, what: str) -> None:
    async with up(tmp_path, Odd) as running:
        outcome = await running.ask("odd", what, thread_id="one")
        assert outcome.status == "failed"
        assert outcome.error is not None and outcome.error.message
        again = await running.ask("odd", what, thread_id="one")
        assert again.status == "failed"
        assert (await running.ask("echo")).success
    assert complaints(await evidence_of(tmp_path)) == []


class Fickle(Agent):
    """Takes other steps each time that it runs."""

    agent_id = "fickle"
    capabilities = (Capability("whims"),)
    runs: list[str]

    async def run(self, run: Run) -> str | dict[str, Any]:
        self.runs.append(run.task.task_id)

        async def nothing() -> str:
            return "nothing"

        await run.step(f"way {len(self.runs)}", nothing)
        await run.step("rest", nothing)
        if len(self.runs) == 1:
            await asyncio.Event().wait()
        return f"arrived in run {len(self.runs)}"


async def test_a_run_that_leaves_its_journal_begins_anew_with_the_same_agent(tmp_path: Path) -> None:
    runs: list[str] = []
    fickle = type("TestFickle", (Fickle,), {"runs": runs})
    async with up(tmp_path, fickle) as running:
        task_id = await running.submit("fickle")
        await running.event("task.started", task_id)
        while not await running.mesh.runtime.records(thread_of("fickle", task_id), f"steps/{task_id}/1/1"):
            await asyncio.sleep(0)
    async with up(tmp_path, fickle) as running:
        outcome = await running.outcome(task_id)
        assert (outcome.status, outcome.text, outcome.attempt) == ("succeeded", "arrived in run 3", 2)
    assert complaints(await evidence_of(tmp_path)) == []


def thread_of(agent_id: str, task_id: str) -> Any:
    from meshwright.engine.kernel.envelope import ActorRef

    return ActorRef(agent_id, f"default:{task_id}")


async def test_a_delegation_that_nobody_can_take_fails_at_once_and_its_parent_hears_of_it(
    tmp_path: Path,
) -> None:
    async with up(tmp_path) as running:
        outcome = await running.ask("boss", "nobody:Hello")
        assert outcome.status == "failed"
        assert outcome.error is not None and "nobody" in outcome.error.message
        assert outcome.error.type == DelegationFailed.__name__
    assert complaints(await evidence_of(tmp_path)) == []


# Cancelling


# Too much


async def test_a_full_mailbox_refuses_clearly_and_keeps_what_it_took(tmp_path: Path) -> None:
    request = TaskRequest(agent_id="echo", payload={"text": "Hello"})
    async with up(tmp_path) as running:

        async def submit() -> str:
            return (await running.mesh.get(Tasks).submit(request, idempotency_key="once")).task_id

        # Some run at once, and take no place in the mailbox.
        answers = await asyncio.gather(*(submit() for _ in range(1200)), return_exceptions=True)
        accepted = {answer for answer in answers if isinstance(answer, str)}
        refused = [answer for answer in answers if not isinstance(answer, str)]
        assert len(accepted) == 1
        assert len(refused) > 100 and {type(error) for error in refused} == {MailboxFull}
        assert "try again in a moment" in str(refused[0])
        assert {await submit()} == accepted
        assert (await running.outcome(*accepted)).success
    assert complaints(await evidence_of(tmp_path)) == []


async def test_a_stop_in_the_middle_of_recovery_loses_nothing(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        tasks = await asyncio.gather(*(running.submit("gate") for _ in range(200)))
    async with up(tmp_path):
        pass
    async with up(tmp_path) as running:
        running.gate.set()
        outcomes = await asyncio.gather(*map(running.outcome, tasks))
        assert {outcome.status for outcome in outcomes} == {"succeeded"}
    assert complaints(await evidence_of(tmp_path)) == []

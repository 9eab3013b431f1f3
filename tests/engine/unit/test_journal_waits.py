"""A journal waits: for answers, and with what is costly until it is safe to begin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import pytest

from meshwright.core.errors import ToolFailed
from meshwright.core.events import Event
from meshwright.core.payloads import StepPayload
from meshwright.engine.kernel.envelope import Record
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.stores.memory import InMemoryStore
from meshwright.engine.work import Journal, RunSuspended
from meshwright.engine.work.records import ProgressEvent
from meshwright.testing.mesh import memory_runtime
from tests.support.journals import REF, STREAM, Effects, SlowDisk, answer, begun, resumed, started, work
from tests.support.turn_driver import a_task


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with started(memory_runtime()) as runtime:
        yield runtime


@pytest.fixture
async def slow() -> AsyncIterator[SlowDisk]:
    async with started(SlowDisk()) as runtime:
        yield runtime
        runtime.reached_the_disk.set()


@pytest.fixture
def effects() -> Effects:
    return Effects()


# Waiting


async def test_a_run_that_waits_says_for_what_and_goes_on_with_the_answer(
    runtime: Runtime, effects: Effects
) -> None:
    async def run(journal: Journal) -> Any:
        await journal.step("before", {}, effects("before"))
        return await journal.wait("ask", {"question": "why?"}, reason="why?")

    with pytest.raises(RunSuspended) as asked:
        await run(await begun(runtime))
    [wait] = asked.value.suspend.waits
    assert (wait.wait_id, wait.step.path, wait.step.kind) == (f"{STREAM}/2", "2", "ask")
    assert (wait.kind, wait.reason) == ("person", "why?")
    await answer(runtime, asked.value, {"text": "because"})
    assert await run(await resumed(runtime)) == {"text": "because"}
    assert effects == ["before"]


async def test_a_child_goes_with_the_wait_for_it(runtime: Runtime) -> None:
    child = a_task("child")
    with pytest.raises(RunSuspended) as asked:
        await (await begun(runtime)).wait("delegate", {}, child=lambda wait_id, identity: child)
    assert asked.value.suspend.children == (child,)


async def test_no_tool_can_swallow_a_wait(runtime: Runtime) -> None:
    journal = await begun(runtime)

    async def swallows() -> str:
        try:
            return await journal.wait("ask", {})
        except Exception:  # noqa: BLE001 as the tools of others do
            return "swallowed"

    with pytest.raises(RunSuspended):
        await journal.step("tool", {}, swallows)


@pytest.mark.parametrize("step_before", [False, True])
async def test_what_may_not_be_repeated_may_not_wait(
    runtime: Runtime, effects: Effects, step_before: bool
) -> None:
    journal = await begun(runtime)

    async def waits() -> Any:
        if step_before:
            await journal.step("inner", {}, effects("inner"), repeatable=False)
        return await journal.wait("ask", {})

    with pytest.raises(ToolFailed, match="idempotent may wait"):
        await journal.step("deploy", {}, waits, repeatable=False)


# Durability


async def passes_of_the_loop(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_costly_step_starts_only_when_the_one_before_is_durable(
    slow: SlowDisk, effects: Effects
) -> None:
    journal = await begun(slow)
    await journal.step("model", {}, effects("first call"))
    second = asyncio.create_task(journal.step("model", {}, effects("second call")))
    await passes_of_the_loop()
    assert effects == ["first call"]
    slow.reached_the_disk.set()
    await second
    assert effects == ["first call", "second call"]


async def test_what_costs_nothing_delays_nobody(slow: SlowDisk, effects: Effects) -> None:
    journal = await begun(slow)
    await journal.step("context", {}, effects("context"), costly=False)
    await journal.step("model", {}, effects("call"))
    assert effects == ["context", "call"]


async def test_a_cheap_step_behind_a_costly_one_does_not_hide_it(slow: SlowDisk, effects: Effects) -> None:
    journal = await begun(slow)
    await journal.step("model", {}, effects("first call"))
    await journal.step("context", {}, effects("context"), costly=False)
    second = asyncio.create_task(journal.step("model", {}, effects("second call")))
    await passes_of_the_loop()
    assert effects == ["first call", "context"]
    slow.reached_the_disk.set()
    await second


async def test_what_may_not_be_repeated_starts_only_when_its_intent_is_durable(
    slow: SlowDisk, effects: Effects
) -> None:
    journal = await begun(slow)
    deploying = asyncio.create_task(journal.step("deploy", {}, effects("deployed"), repeatable=False))
    await passes_of_the_loop()
    assert effects == []
    assert [record.n for record in await slow.records(REF, STREAM)] == [1]
    slow.reached_the_disk.set()
    await deploying
    assert effects == ["deployed"]


async def test_a_run_waits_only_when_all_it_did_is_durable(slow: SlowDisk, effects: Effects) -> None:
    async def run() -> None:
        journal = await begun(slow)
        await journal.step("model", {}, effects("call"))
        await journal.wait("ask", {})

    waiting = asyncio.create_task(run())
    await passes_of_the_loop()
    assert not waiting.done()
    slow.reached_the_disk.set()
    with pytest.raises(RunSuspended):
        await waiting


# Events


class _Note(StepPayload):
    note: str


async def test_a_step_tells_once_what_came_of_it(runtime: Runtime, effects: Effects) -> None:
    told: list[Event] = []
    runtime.listen("task-progress", told.append)

    def tell(result: Any) -> list[ProgressEvent]:
        return [
            ProgressEvent("model.called", _Note(note=result)),
            ProgressEvent("money.spent", StepPayload()),
        ]

    for opened in (begun, begun, resumed):
        journal = await opened(runtime)
        await journal.step("model", {}, effects("yes"), tell=tell)
        await journal.confirm()
    assert [(event.id, event.event_type) for event in told] == [
        (f"{REF}/{STREAM}/1.1", "model.called"),
        (f"{REF}/{STREAM}/1.2", "money.spent"),
    ]
    assert told[0].payload == {"step": 1, "path": "1", "attempt": 1, "note": "yes"}
    assert (told[0].task_id, told[0].agent_id) == ("t1", "helper")


# Calls of models


class Commits(Runtime):
    """A runtime in memory, which notes what is appended together."""

    def __init__(self) -> None:
        super().__init__(InMemoryStore(), strict=True)
        self.appended: list[tuple[str, list[str]]] = []

    def append(self, record: Record, events: Sequence[Event] = (), **options: Any) -> Awaitable[None]:
        self.appended.append((record.stream, [event.id for event in events]))
        return super().append(record, events, **options)


def call(name: str) -> tuple[dict[str, Any], ProgressEvent]:
    return {"model": name}, ProgressEvent("model.called", StepPayload(), name)


async def test_a_call_commits_with_its_step_and_its_event_has_its_id() -> None:
    async with started(Commits()) as runtime:
        journal = await begun(runtime)
        async with journal.open_step("model", {}) as step:
            step.add_call(*call("refused"))
            journal.add_call(*call("made"))
            step.finish("yes")
        await journal.confirm()
        assert runtime.appended == [(STREAM, [f"{REF}/refused", f"{REF}/made"])]
        [record] = (await resumed(runtime)).earlier
        assert record["calls"] == [{"model": "refused"}, {"model": "made"}]


async def test_a_call_of_a_step_that_fails_is_recorded_at_once() -> None:
    async with started(Commits()) as runtime:
        journal = await begun(runtime)
        with pytest.raises(asyncio.CancelledError):
            async with journal.open_step("model", {}):
                journal.add_call(*call("broken off"))
                raise asyncio.CancelledError
        assert runtime.appended == [(STREAM, [f"{REF}/broken off"])]
        journal = await resumed(runtime)
        assert journal.earlier == [{"calls": [{"model": "broken off"}], "cut": ["1", 0]}]
        journal.add_call(*call("late"))
        assert (await resumed(runtime)).earlier[1] == {"calls": [{"model": "late"}]}


async def test_an_approval_that_one_restart_used_is_asked_for_again_after_the_next(
    runtime: Runtime, effects: Effects
) -> None:
    async def run(attempt: int) -> None:
        replaced = tuple(f"steps/t1/1/{before}" for before in range(1, attempt))
        grant = work(journaled=False).model_copy(
            update={"attempt": attempt, "first_steps": f"steps/t1/1/{attempt}", "replaced": replaced}
        )
        journal = await Journal.open(runtime, REF, grant)
        await journal.wait("approve ship", {"order": 1}, reason="May it?")
        await journal.step("tool ship", {"order": 1}, effects("shipped"))

    with pytest.raises(RunSuspended) as asked:
        await run(1)
    [wait] = asked.value.suspend.waits
    decided = {**wait.step.model_dump(), "result": {"approve": True}, "answered_at": "2026-01-01T00:00:00Z"}
    await runtime.append(Record(REF, f"{STREAM}/answers", 1, decided))
    await run(2)
    with pytest.raises(RunSuspended):
        await run(3)
    assert effects == ["shipped"]

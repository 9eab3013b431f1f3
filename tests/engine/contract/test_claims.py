"""Work on every host: claimed once, fenced, put aside and taken up again, and never lost."""

import asyncio
from datetime import timedelta

import pytest

from meshwright.core.errors import ToolFailed
from meshwright.core.ids import new_id
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work import Claim, ThreadState
from meshwright.testing import ManualClock
from tests.support.harness import STEADY, RuntimeHarness
from tests.support.work_scripts import asks_between, delegates, one_step, three_steps, waits_side_by_side
from tests.support.worker_pool import Shift, StartWorkers, WorkerPool, outcome_of

# Claims


async def test_an_accepted_task_is_claimed_worked_on_and_settled_once(start_workers: StartWorkers) -> None:
    pool = await start_workers(three_steps)
    receipt = await pool.submit("t1")
    assert (receipt.status, receipt.dispatched_to) == ("dispatched", "helper")
    outcome = await pool.outcome("t1")
    assert (outcome.status, outcome.text) == ("succeeded", "first by 1, second by 1, third by 1")
    assert pool.begun == ["t1 first", "t1 second", "t1 third"]
    assert [event.payload["fence"] for event in pool.events("task.started")] == [1]
    assert await pool.inbox("t1") == []


async def test_tasks_of_a_thread_run_one_at_a_time_in_the_order_of_its_inbox(
    start_workers: StartWorkers,
) -> None:
    pool = await start_workers(three_steps)
    names = [f"t{n}" for n in range(5)]
    pool.hold("t0 first")
    await pool.submit("t0", thread_id="one")
    await pool.has_begun("t0 first")
    for name in names[1:]:
        await pool.submit(name, thread_id="one")
    inbox = await pool.queued("one", *names)
    pool.let_go("t0 first")
    for name in names:
        await pool.outcome(name)
    assert pool.begun == [f"{name} {step}" for name in inbox for step in ("first", "second", "third")]


async def test_different_threads_run_side_by_side_as_far_as_there_are_slots(
    start_workers: StartWorkers,
) -> None:
    pool = await start_workers(one_step, slots=2)
    for n in range(4):
        pool.hold(f"t{n} work")
        await pool.submit(f"t{n}")
    await pool.until(lambda: len(pool.begun) == 2)
    await pool.until(lambda: pool.worker.waiting >= 2)
    assert pool.worker.running == 2
    for n in range(4):
        pool.let_go(f"t{n} work")
    for n in range(4):
        assert (await pool.outcome(f"t{n}")).success


async def test_work_under_way_is_granted_to_nobody_else(start_workers: StartWorkers) -> None:
    pool = await start_workers(one_step)
    pool.hold("t1 work")
    await pool.submit("t1")
    await pool.has_begun("t1 work")
    await pool.submit("t2", thread_id="t1")
    await pool.queued("t1", "t1", "t2")
    for task_id, gone in (
        ("t1", None),
        ("t1", "somebody else"),
        ("t2", None),
        ("t2", pool.runtime.incarnation),
    ):
        claim = Claim(task_id=task_id, owner="a thief", ended_owner=gone)
        assert await pool.runtime.call(ActorRef("helper", "default:t1"), "claim", claim) is None
    pool.let_go("t1 work")
    assert (await pool.outcome("t1")).text == "work by 1"
    assert (await pool.outcome("t2")).text == "work by 2"


async def test_a_dispatch_that_comes_again_and_again_is_run_once(start_workers: StartWorkers) -> None:
    pool = await start_workers(one_step)
    pool.hold("t1 work")
    await pool.submit("t1", thread_id="one")
    await pool.has_begun("t1 work")
    await pool.until(lambda: bool(pool.events("task.dispatched")))
    [dispatched] = pool.events("task.dispatched")

    async def redeliver(times: int) -> None:
        for _ in range(times):
            await pool.runtime.publish(dispatched.model_copy(update={"id": f"broker/{new_id()}"}))

    await redeliver(3)
    pool.let_go("t1 work")
    assert (await pool.outcome("t1")).success
    await redeliver(2)
    await pool.until(lambda: len(pool.events("task.redriven")) >= 2)
    await pool.submit("t2", thread_id="one")
    await pool.outcome("t2")
    assert pool.begun == ["t1 work", "t2 work"]
    assert (len(pool.finals()), len(pool.events("attempt.ended"))) == (2, 2)


async def test_a_failed_attempt_is_made_again_by_another_agent(start_workers: StartWorkers) -> None:
    async def fails_at_first(shift: Shift) -> str:
        if shift.work.dispatch.attempt == 1:
            raise ToolFailed("not today")
        return await shift.do("work")

    pool = await start_workers(fails_at_first, agents=("helper", "other"))
    await pool.submit("t1")
    outcome = await pool.outcome("t1")
    assert (outcome.agent_id, outcome.attempt, outcome.text) == ("other", 2, "work by 1")
    assert [event.payload["error"]["message"] for event in pool.events("attempt.failed")] == ["not today"]


# Workers that go


async def test_after_a_crash_work_goes_on_from_its_last_step(start_workers: StartWorkers) -> None:
    pool = await start_workers(three_steps)
    pool.hold("t1 second")
    await pool.submit("t1")
    await pool.has_begun("t1 second")
    await pool.crash()
    await pool.has_begun("t1 second", times=2)
    pool.let_go("t1 second")
    outcome = await pool.outcome("t1")
    fence = pool.events("task.resumed")[-1].payload["fence"]
    assert outcome.text == f"first by 1, second by {fence}, third by {fence}"
    assert pool.begun == ["t1 first", "t1 second", "t1 second", "t1 third"]
    [started] = pool.events("task.started")
    assert pool.events("task.resumed")[-1].payload["owner"] != started.payload["owner"]


@pytest.mark.parametrize("harness", STEADY, indirect=True)
async def test_calls_that_crashes_cut_off_are_counted_once_each(start_workers: StartWorkers) -> None:
    async def calls_between_tools(shift: Shift) -> str:
        counts = [await shift.pay("first")]
        await shift.do("tool")
        return str([*counts, *await asyncio.gather(shift.pay("second"), shift.pay("third"))])

    pool = await start_workers(calls_between_tools)
    for name in ("first", "tool", "second", "third"):
        pool.hold(f"t1 {name}")
    await pool.submit("t1")
    for held, crashes in ((("first",), 2), (("tool",), 1), (("second", "third"), 3)):
        for crash in range(1, crashes + 1):
            for name in held:
                await pool.has_begun(f"t1 {name}", times=crash)
            await pool.crash()
        for name in held:
            pool.let_go(f"t1 {name}")
    assert (await pool.outcome("t1")).text == "[2, 3, 3]"


async def test_a_crash_before_the_claim_leaves_a_task_that_runs_at_the_next_start(
    start_workers: StartWorkers,
) -> None:
    pool = await start_workers(one_step)
    await pool.worker.drain(0)
    await pool.submit("t1")
    await pool.crash()
    assert (await pool.outcome("t1")).success
    assert pool.begun == ["t1 work"]


@pytest.mark.parametrize("harness", STEADY, indirect=True)  # a restart would raise the fence by itself
@pytest.mark.parametrize("end", ["complete", "put aside"])
@pytest.mark.parametrize("successor_ended", [False, True])
async def test_a_zombie_with_an_old_fence_commits_nothing(
    harness: RuntimeHarness, start_workers: StartWorkers, end: str, successor_ended: bool
) -> None:
    async def work(shift: Shift) -> str:
        old = shift.work.fence == first_fence
        await shift.do("old" if old else "new")
        if old and end == "put aside":
            await shift.ask("who am I?")
        return "by a zombie" if old else "by its successor"

    first_fence = 1
    pool = await start_workers(work)
    pool.hold("t1 old")
    pool.hold("t1 new")
    await pool.submit("t1")
    await pool.has_begun("t1 old")
    pool.take_over("t1")
    await pool.has_begun("t1 new")
    if successor_ended:
        pool.let_go("t1 new")
        await pool.outcome("t1")
    pool.let_go("t1 old")
    await pool.until(lambda: bool(pool.events("work.discarded", "t1")))
    if not successor_ended:
        pool.let_go("t1 new")
    assert (await pool.outcome("t1")).text == "by its successor"
    assert pool.events("work.discarded")[0].payload["fence"] == first_fence
    [ended] = {outcome_of(event).text for event in pool.events("attempt.ended")}
    assert ended == "by its successor"
    assert not pool.events("task.waiting")


async def test_a_drain_leaves_what_is_unfinished_to_the_next_start(start_workers: StartWorkers) -> None:
    pool = await start_workers(three_steps, slots=1)
    pool.hold("t1 second")
    await pool.submit("t1")
    await pool.has_begun("t1 second")
    await pool.submit("t2")
    await pool.worker.drain(0)
    assert "t2 first" not in pool.begun
    await pool.restart()
    pool.let_go("t1 second")
    for task_id in ("t1", "t2"):
        assert (await pool.outcome(task_id)).success
    assert pool.begun.count("t1 first") == 1
    assert pool.begun.count("t1 second") == 2
    assert pool.begun.count("t2 first") == 1
    assert len(pool.finals()) == 2


async def test_a_drain_lets_work_end_and_begins_nothing_more(start_workers: StartWorkers) -> None:
    pool = await start_workers(one_step, slots=1)
    pool.hold("t1 work")
    await pool.submit("t1")
    await pool.has_begun("t1 work")
    await pool.submit("t2")
    pool.let_go("t1 work")
    await pool.worker.drain(10)
    assert (await pool.outcome("t1")).text == "work by 1"
    assert pool.begun == ["t1 work"]
    await pool.restart()
    assert (await pool.outcome("t2")).success
    assert pool.begun == ["t1 work", "t2 work"]


# Waiting


async def test_a_wait_gives_up_its_slot_and_its_thread_goes_on(start_workers: StartWorkers) -> None:
    pool = await start_workers(asks_between, slots=1)
    pool.hold("ask before")
    await pool.submit("ask", thread_id="one")
    await pool.has_begun("ask before")
    await pool.submit("elsewhere")
    await pool.submit("behind", thread_id="one")
    await pool.queued("one", "ask", "behind")
    pool.let_go("ask before")
    assert (await pool.waiting("ask"))["asked"] == "may I?"
    for task_id in ("elsewhere", "behind"):
        assert (await pool.outcome(task_id)).success
    assert await pool.inbox("one") == ["ask"]
    assert "ask after" not in pool.begun


@pytest.mark.parametrize("then", ["go on", "crash", "restart"])
async def test_an_answer_resumes_the_run_after_the_steps_that_it_had_done(
    start_workers: StartWorkers, then: str
) -> None:
    pool = await start_workers(asks_between)
    await pool.submit("ask")
    await pool.waiting("ask")
    if then != "go on":
        await getattr(pool, then)()
    assert await pool.answer("ask", "you may")
    outcome = await pool.outcome("ask")
    assert (outcome.status, outcome.text) == ("succeeded", "you may")
    assert pool.begun == ["ask before", "ask after"]


async def test_an_answer_that_was_given_is_not_forgotten_by_a_crash(start_workers: StartWorkers) -> None:
    pool = await start_workers(asks_between)
    await pool.submit("ask")
    await pool.waiting("ask")
    pool.hold("ask after")
    assert await pool.answer("ask", "you may")
    await pool.has_begun("ask after")
    await pool.crash()
    await pool.has_begun("ask after", times=2)
    pool.let_go("ask after")
    assert (await pool.outcome("ask")).text == "you may"
    assert len(pool.events("task.waiting")) == 1


async def test_work_goes_on_where_its_thread_had_a_turn_before_its_worker_counted_as_gone(
    start_workers: StartWorkers,
) -> None:
    pool = await start_workers(asks_between)
    pool.hold("ask before")
    await pool.submit("ask")
    await pool.has_begun("ask before")
    await pool.crash()
    await pool.submit("behind", thread_id="ask")
    await pool.queued("ask", "ask", "behind")
    await pool.has_begun("ask before", times=2)
    pool.let_go("ask before")
    assert await pool.answer("ask", "you may")
    assert (await pool.outcome("ask")).text == "you may"
    assert (await pool.outcome("behind")).success


async def test_only_the_first_answer_counts(start_workers: StartWorkers) -> None:
    pool = await start_workers(asks_between)
    await pool.submit("ask")
    pool.hold("ask after")
    assert await pool.answer("ask", "you may")
    assert not await pool.answer("ask", "you may not")
    await pool.has_begun("ask after")
    assert not await pool.answer("ask", "you may not")
    pool.let_go("ask after")
    assert (await pool.outcome("ask")).text == "you may"
    assert not await pool.answer("ask", "too late")


async def test_a_delegated_task_runs_in_the_slot_that_its_parent_gave_up(start_workers: StartWorkers) -> None:
    pool = await start_workers(delegates, slots=1)
    await pool.submit("parent")
    outcome = await pool.outcome("parent")
    assert outcome.text == "succeeded: work by 1"
    assert (await pool.outcome("child")).success
    assert pool.begun == ["parent before", "child work", "parent after"]


async def test_a_parent_and_its_child_both_survive_a_crash(start_workers: StartWorkers) -> None:
    pool = await start_workers(delegates)
    pool.hold("child work")
    await pool.submit("parent")
    await pool.has_begun("child work")
    await pool.crash()
    await pool.has_begun("child work", times=2)
    pool.let_go("child work")
    assert (await pool.outcome("parent")).text.startswith("succeeded: work by")
    assert pool.begun == ["parent before", "child work", "child work", "parent after"]


# Ends before the time


async def test_a_queued_a_running_and_a_waiting_task_are_cancelled(start_workers: StartWorkers) -> None:
    pool = await start_workers(asks_between, slots=1)
    await pool.submit("ask")
    await pool.waiting("ask")
    pool.hold("runs work")
    await pool.submit("runs", thread_id="one")
    await pool.has_begun("runs work")
    await pool.submit("queued")
    await pool.submit("behind", thread_id="one")
    for task_id in ("ask", "queued", "runs"):
        await pool.cancel(task_id)
        assert (await pool.outcome(task_id)).status == "cancelled"
    assert (await pool.outcome("behind")).success
    assert pool.begun == ["ask before", "runs work", "behind work"]


async def test_cancelling_a_parent_cancels_the_child_that_it_waits_for(start_workers: StartWorkers) -> None:
    pool = await start_workers(delegates)
    pool.hold("child work")
    await pool.submit("parent")
    await pool.has_begun("child work")
    await pool.cancel("parent")
    assert (await pool.outcome("parent")).status == "cancelled"
    assert (await pool.outcome("child")).status == "cancelled"


async def test_a_cancel_before_a_crash_holds_after_it(start_workers: StartWorkers) -> None:
    pool = await start_workers(one_step, slots=1)
    pool.hold("t1 work")
    await pool.submit("t1")
    await pool.has_begun("t1 work")
    await pool.worker.drain(0)  # the worker is gone before it could be told
    await pool.cancel("t1")
    while not await is_cancelled(pool, "t1"):
        await pool.let_turns_be_taken("t1")
    await pool.crash()
    assert (await pool.outcome("t1")).status == "cancelled"
    assert pool.begun == ["t1 work"]


async def is_cancelled(pool: WorkerPool, task_id: str) -> bool:
    """Whether the thread of a task knows that it is cancelled."""
    state = await pool.runtime.read(ActorRef("helper", f"default:{task_id}"))
    return isinstance(state, ThreadState) and all(entry.cancelled for entry in state.inbox)


async def test_a_deadline_ends_a_task_whose_work_hangs_and_frees_its_thread(
    start_workers: StartWorkers,
) -> None:
    clock = ManualClock()
    pool = await start_workers(one_step, clock=clock, slots=1)
    pool.hold("hangs work")
    await pool.submit("hangs", thread_id="one")
    await pool.has_begun("hangs work")
    await pool.submit("behind", thread_id="one", deadline_at=clock.now() + timedelta(days=1))
    await clock.advance(361)
    assert (await pool.outcome("hangs")).status == "timed_out"
    assert (await pool.outcome("behind")).success
    assert pool.begun == ["hangs work", "behind work"]


@pytest.mark.parametrize("then", ["go on", "crash", "restart"])
async def test_a_run_that_waits_for_several_things_goes_on_with_all_their_answers(
    start_workers: StartWorkers, then: str
) -> None:
    pool = await start_workers(waits_side_by_side, slots=1)
    pool.hold("parent aside")
    await pool.submit("parent")
    await pool.has_begun("parent aside")
    assert await pool.answer("parent", "one", asked="first?")  # while it works on something else
    pool.let_go("parent aside")
    await pool.has_begun("child work")  # in the slot that its parent gave up
    if then != "go on":
        await getattr(pool, then)()
    assert await pool.answer("parent", "two", asked="second?")
    outcome = await pool.outcome("parent")
    assert (outcome.status, outcome.text) == ("succeeded", "one, two, succeeded, aside")
    assert pool.begun.count("parent aside") == 1
    assert pool.begun.count("parent after") == 1
    assert len(pool.finals()) == 2

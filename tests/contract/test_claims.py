"""Work on every host: claimed once, fenced, put aside and taken up again, and never lost."""

from datetime import timedelta

import pytest

from meshwright.envelope import ActorRef
from meshwright.errors import ToolFailed
from meshwright.messages import new_id
from meshwright.testing import ManualClock
from meshwright.work import Claim, Offer, ThreadState, Worker
from tests.contract.crew import Crew, Hire, Shift, outcome_of
from tests.contract.scripts import asks_between, delegates, one_step, three_steps
from tests.contract.stands import STEADY, Stand

# Claims


async def test_an_accepted_task_is_claimed_worked_on_and_settled_once(hire: Hire) -> None:
    crew = await hire(three_steps)
    receipt = await crew.submit("t1")
    assert (receipt.status, receipt.dispatched_to) == ("dispatched", "helper")
    outcome = await crew.outcome("t1")
    assert (outcome.status, outcome.text) == ("succeeded", "first by 1, second by 1, third by 1")
    assert crew.begun == ["t1 first", "t1 second", "t1 third"]
    assert [event.payload["fence"] for event in crew.events("task.started")] == [1]
    assert await crew.inbox("t1") == []


async def test_tasks_of_a_thread_run_one_at_a_time_in_the_order_of_its_inbox(hire: Hire) -> None:
    crew = await hire(three_steps)
    names = [f"t{n}" for n in range(5)]
    crew.hold("t0 first")
    await crew.submit("t0", thread_id="one")
    await crew.has_begun("t0 first")
    for name in names[1:]:
        await crew.submit(name, thread_id="one")
    inbox = await crew.queued("one", *names)
    crew.let_go("t0 first")
    for name in names:
        await crew.outcome(name)
    assert crew.begun == [f"{name} {step}" for name in inbox for step in ("first", "second", "third")]


async def test_different_threads_run_side_by_side_as_far_as_there_are_slots(hire: Hire) -> None:
    crew = await hire(one_step, slots=2)
    for n in range(4):
        crew.hold(f"t{n} work")
        await crew.submit(f"t{n}")
    await crew.until(lambda: len(crew.begun) == 2)
    await crew.until(lambda: crew.worker.waiting >= 2)
    assert crew.worker.running == 2
    for n in range(4):
        crew.let_go(f"t{n} work")
    for n in range(4):
        assert (await crew.outcome(f"t{n}")).success


async def test_work_under_way_is_granted_to_nobody_else(hire: Hire) -> None:
    crew = await hire(one_step)
    crew.hold("t1 work")
    await crew.submit("t1")
    await crew.has_begun("t1 work")
    await crew.submit("t2", thread_id="t1")
    await crew.queued("t1", "t1", "t2")
    for task_id, gone in (("t1", None), ("t1", "somebody else"), ("t2", None), ("t2", crew.host.incarnation)):
        claim = Claim(task_id=task_id, owner="a thief", gone=gone)
        assert await crew.host.call(ActorRef("helper", "default:t1"), "claim", claim) is None
    crew.let_go("t1 work")
    assert (await crew.outcome("t1")).text == "work by 1"
    assert (await crew.outcome("t2")).text == "work by 2"


async def test_a_dispatch_that_comes_again_and_again_is_run_once(hire: Hire) -> None:
    crew = await hire(one_step)
    crew.hold("t1 work")
    await crew.submit("t1", thread_id="one")
    await crew.has_begun("t1 work")
    [dispatched] = crew.events("task.dispatched")

    async def redeliver(times: int) -> None:
        for _ in range(times):
            await crew.host.publish(dispatched.model_copy(update={"id": f"broker/{new_id()}"}))

    await redeliver(3)
    crew.let_go("t1 work")
    assert (await crew.outcome("t1")).success
    await redeliver(2)
    await crew.until(lambda: len(crew.events("task.redriven")) >= 2)
    await crew.submit("t2", thread_id="one")
    await crew.outcome("t2")
    assert crew.begun == ["t1 work", "t2 work"]
    assert (len(crew.finals()), len(crew.events("attempt.ended"))) == (2, 2)


async def test_a_failed_attempt_is_made_again_by_another_agent(hire: Hire) -> None:
    async def fails_at_first(shift: Shift) -> str:
        if shift.work.dispatch.attempt == 1:
            raise ToolFailed("not today")
        return await shift.do("work")

    crew = await hire(fails_at_first, agents=("helper", "other"))
    await crew.submit("t1")
    outcome = await crew.outcome("t1")
    assert (outcome.agent_id, outcome.attempt, outcome.text) == ("other", 2, "work by 1")
    assert [event.payload["error"]["message"] for event in crew.events("attempt.failed")] == ["not today"]


# Workers that go


async def test_after_a_crash_work_goes_on_from_its_last_step(hire: Hire) -> None:
    crew = await hire(three_steps)
    crew.hold("t1 second")
    await crew.submit("t1")
    await crew.has_begun("t1 second")
    await crew.crash()
    await crew.has_begun("t1 second", times=2)
    crew.let_go("t1 second")
    outcome = await crew.outcome("t1")
    fence = crew.events("task.resumed")[-1].payload["fence"]
    assert outcome.text == f"first by 1, second by {fence}, third by {fence}"
    assert crew.begun == ["t1 first", "t1 second", "t1 second", "t1 third"]
    [started] = crew.events("task.started")
    assert crew.events("task.resumed")[-1].payload["owner"] != started.payload["owner"]


async def test_a_crash_before_the_claim_leaves_a_task_that_runs_at_the_next_start(hire: Hire) -> None:
    crew = await hire(one_step)
    await crew.worker.drain(0)
    await crew.submit("t1")
    await crew.crash()
    assert (await crew.outcome("t1")).success
    assert crew.begun == ["t1 work"]


@pytest.mark.parametrize("stand", STEADY, indirect=True)  # a restart would raise the fence by itself
@pytest.mark.parametrize("end", ["complete", "put aside"])
@pytest.mark.parametrize("successor_ended", [False, True])
async def test_a_zombie_with_an_old_fence_commits_nothing(
    stand: Stand, hire: Hire, end: str, successor_ended: bool
) -> None:
    async def work(shift: Shift) -> str:
        old = shift.work.fence == first_fence
        await shift.do("old" if old else "new")
        if old and end == "put aside":
            await shift.ask("who am I?")
        return "by a zombie" if old else "by its successor"

    first_fence = 1
    crew = await hire(work)
    crew.hold("t1 old")
    crew.hold("t1 new")
    await crew.submit("t1")
    await crew.has_begun("t1 old")
    take_over(crew, "t1")
    await crew.has_begun("t1 new")
    if successor_ended:
        crew.let_go("t1 new")
        await crew.outcome("t1")
    crew.let_go("t1 old")
    await crew.until(lambda: bool(crew.events("work.discarded", "t1")))
    if not successor_ended:
        crew.let_go("t1 new")
    assert (await crew.outcome("t1")).text == "by its successor"
    assert crew.events("work.discarded")[0].payload["fence"] == first_fence
    [ended] = {outcome_of(event).text for event in crew.events("attempt.ended")}
    assert ended == "by its successor"
    assert not crew.events("task.waiting")


def take_over(crew: Crew, task_id: str) -> Worker:
    """A second worker on the crew's host claims a task, as after a start that the first has overslept."""
    ref = ActorRef("helper", f"default:{task_id}")
    successor = crew.employ(crew.host)
    crew.host.attach(successor)
    successor.signal(ref, Offer(ref, task_id, "default", 5, 0.0, owner=crew.host.incarnation))
    return successor


async def test_a_drain_leaves_what_is_unfinished_to_the_next_start(hire: Hire) -> None:
    crew = await hire(three_steps, slots=1)
    crew.hold("t1 second")
    await crew.submit("t1")
    await crew.has_begun("t1 second")
    await crew.submit("t2")
    await crew.worker.drain(0)
    assert "t2 first" not in crew.begun
    await crew.restart()
    crew.let_go("t1 second")
    for task_id in ("t1", "t2"):
        assert (await crew.outcome(task_id)).success
    assert crew.begun.count("t1 first") == 1
    assert crew.begun.count("t1 second") == 2
    assert crew.begun.count("t2 first") == 1
    assert len(crew.finals()) == 2


async def test_a_drain_lets_work_end_and_begins_nothing_more(hire: Hire) -> None:
    crew = await hire(one_step, slots=1)
    crew.hold("t1 work")
    await crew.submit("t1")
    await crew.has_begun("t1 work")
    await crew.submit("t2")
    crew.let_go("t1 work")
    await crew.worker.drain(10)
    assert (await crew.outcome("t1")).text == "work by 1"
    assert crew.begun == ["t1 work"]
    await crew.restart()
    assert (await crew.outcome("t2")).success
    assert crew.begun == ["t1 work", "t2 work"]


# Waiting


async def test_a_wait_gives_up_its_slot_and_its_thread_goes_on(hire: Hire) -> None:
    crew = await hire(asks_between, slots=1)
    crew.hold("ask before")
    await crew.submit("ask", thread_id="one")
    await crew.has_begun("ask before")
    await crew.submit("elsewhere")
    await crew.submit("behind", thread_id="one")
    await crew.queued("one", "ask", "behind")
    crew.let_go("ask before")
    assert (await crew.waiting("ask"))["asked"] == "may I?"
    for task_id in ("elsewhere", "behind"):
        assert (await crew.outcome(task_id)).success
    assert await crew.inbox("one") == ["ask"]
    assert "ask after" not in crew.begun


@pytest.mark.parametrize("then", ["go on", "crash", "restart"])
async def test_an_answer_resumes_the_run_after_the_steps_that_it_had_done(hire: Hire, then: str) -> None:
    crew = await hire(asks_between)
    await crew.submit("ask")
    await crew.waiting("ask")
    if then != "go on":
        await getattr(crew, then)()
    assert await crew.answer("ask", "you may")
    outcome = await crew.outcome("ask")
    assert (outcome.status, outcome.text) == ("succeeded", "you may")
    assert crew.begun == ["ask before", "ask after"]


async def test_an_answer_that_was_given_is_not_forgotten_by_a_crash(hire: Hire) -> None:
    crew = await hire(asks_between)
    await crew.submit("ask")
    await crew.waiting("ask")
    crew.hold("ask after")
    assert await crew.answer("ask", "you may")
    await crew.has_begun("ask after")
    await crew.crash()
    await crew.has_begun("ask after", times=2)
    crew.let_go("ask after")
    assert (await crew.outcome("ask")).text == "you may"
    assert len(crew.events("task.waiting")) == 1


async def test_only_the_first_answer_counts(hire: Hire) -> None:
    crew = await hire(asks_between)
    await crew.submit("ask")
    crew.hold("ask after")
    assert await crew.answer("ask", "you may")
    assert not await crew.answer("ask", "you may not")
    await crew.has_begun("ask after")
    assert not await crew.answer("ask", "you may not")
    crew.let_go("ask after")
    assert (await crew.outcome("ask")).text == "you may"
    assert not await crew.answer("ask", "too late")


async def test_a_delegated_task_runs_in_the_slot_that_its_parent_gave_up(hire: Hire) -> None:
    crew = await hire(delegates, slots=1)
    await crew.submit("parent")
    outcome = await crew.outcome("parent")
    assert outcome.text == "succeeded: work by 1"
    assert (await crew.outcome("child")).success
    assert crew.begun == ["parent before", "child work", "parent after"]


async def test_a_parent_and_its_child_both_survive_a_crash(hire: Hire) -> None:
    crew = await hire(delegates)
    crew.hold("child work")
    await crew.submit("parent")
    await crew.has_begun("child work")
    await crew.crash()
    await crew.has_begun("child work", times=2)
    crew.let_go("child work")
    assert (await crew.outcome("parent")).text.startswith("succeeded: work by")
    assert crew.begun == ["parent before", "child work", "child work", "parent after"]


# Ends before the time


async def test_a_queued_a_running_and_a_waiting_task_are_cancelled(hire: Hire) -> None:
    crew = await hire(asks_between, slots=1)
    await crew.submit("ask")
    await crew.waiting("ask")
    crew.hold("runs work")
    await crew.submit("runs", thread_id="one")
    await crew.has_begun("runs work")
    await crew.submit("queued")
    await crew.submit("behind", thread_id="one")
    for task_id in ("ask", "queued", "runs"):
        await crew.cancel(task_id)
        assert (await crew.outcome(task_id)).status == "cancelled"
    assert (await crew.outcome("behind")).success
    assert crew.begun == ["ask before", "runs work", "behind work"]


async def test_cancelling_a_parent_cancels_the_child_that_it_waits_for(hire: Hire) -> None:
    crew = await hire(delegates)
    crew.hold("child work")
    await crew.submit("parent")
    await crew.has_begun("child work")
    await crew.cancel("parent")
    assert (await crew.outcome("parent")).status == "cancelled"
    assert (await crew.outcome("child")).status == "cancelled"


async def test_a_cancel_before_a_crash_holds_after_it(hire: Hire) -> None:
    crew = await hire(one_step, slots=1)
    crew.hold("t1 work")
    await crew.submit("t1")
    await crew.has_begun("t1 work")
    await crew.worker.drain(0)  # the worker is gone before it could be told
    await crew.cancel("t1")
    while not await is_cancelled(crew, "t1"):
        await crew.let_turns_be_taken("t1")
    await crew.crash()
    assert (await crew.outcome("t1")).status == "cancelled"
    assert crew.begun == ["t1 work"]


async def is_cancelled(crew: Crew, task_id: str) -> bool:
    """Whether the thread of a task knows that it is cancelled."""
    state = await crew.host.read(ActorRef("helper", f"default:{task_id}"))
    return isinstance(state, ThreadState) and all(entry.cancelled for entry in state.inbox)


async def test_a_deadline_ends_a_task_whose_work_hangs_and_frees_its_thread(hire: Hire) -> None:
    clock = ManualClock()
    crew = await hire(one_step, clock=clock, slots=1)
    crew.hold("hangs work")
    await crew.submit("hangs", thread_id="one")
    await crew.has_begun("hangs work")
    await crew.submit("behind", thread_id="one", deadline_at=clock.now() + timedelta(days=1))
    await clock.advance(361)
    assert (await crew.outcome("hangs")).status == "timed_out"
    assert (await crew.outcome("behind")).success
    assert crew.begun == ["hangs work", "behind work"]

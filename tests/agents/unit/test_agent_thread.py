"""The inbox of a thread: order, claims, fences, waiting and cancelling, turn by turn."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

import pytest

from meshwright.core.messages import Dispatch, Outcome, Task
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind, Commit
from meshwright.engine.work import AgentThread, Answer, Cancel, Claim, Complete, Suspend, Wait, Withdraw
from meshwright.engine.work.claims import Reviews
from meshwright.engine.work.entry import MAX_REMEMBERED_ENDS
from meshwright.engine.work.protocol import Grant, StepKey, Stop, Waiting, WaitKind
from meshwright.engine.work.slots import Review, Watch
from tests.support.turn_driver import NOW, Driven, a_dispatch, a_task, an_outcome, types_of


def a_thread(*tasks: str) -> Driven:
    thread = Driven(ActorKind.from_class(AgentThread, type="helper"), "default:thread")
    for task_id in tasks:
        thread.take("enqueue", dispatch_of(task_id))
    return thread


def dispatch_of(task_id: str) -> Dispatch:
    return a_dispatch(a_task(task_id, thread_id="thread"))


def claim(thread: Driven, task_id: str, owner: str = "w1", gone: str | None = None) -> Grant:
    work = thread.take("claim", Claim(task_id=task_id, owner=owner, ended_owner=gone)).reply
    assert isinstance(work, Grant)
    return work


PATIENCE_SECONDS = 10
DAMAGED, SOUND = ActorRef("clerk", "default:damaged"), ActorRef("clerk", "default:sound")
STEP = StepKey(path="2", number=2, kind="wait", hash="h")


def waiting_for(work: Grant, child: Task | None = None, **fields: object) -> Suspend:
    wait = Wait(wait_id="k", step=STEP)
    if child is not None:
        wait = Wait(wait_id="k", step=STEP, kind="task", child_task_id=child.task_id)
    children = () if child is None else (child,)
    return Suspend(task_id=work.task_id, fence=work.fence, waits=(wait,), children=children, **fields)


def two_waits(work: Grant, *kinds: WaitKind) -> Suspend:
    """A run that waits for several things, called k1, k2, ...: the first is due in an hour."""
    waits = [
        Wait(
            wait_id=f"k{n}",
            kind=kind,
            step=StepKey(path=f"b{n}.1", number=n, kind="wait", hash="h"),
            due_at=NOW + timedelta(hours=n) if kind in ("timer", "provider") else None,
            expires_at=NOW + timedelta(hours=n) if kind == "person" else None,
            again=kind == "provider",
        )
        for n, kind in enumerate(kinds, start=1)
    ]
    return Suspend(task_id=work.task_id, fence=work.fence, waits=tuple(waits), pauses=3)


@pytest.mark.parametrize("method", ["enqueue", "enqueue_again"])
def test_a_repeated_dispatch_is_offered_again_and_after_the_end_its_task_is_told(method: str) -> None:
    thread = a_thread("t1", "t2")
    dispatch = dispatch_of("t1")
    queued = thread.take(method, dispatch)
    assert ([hint.task_id for hint in queued.early], queued.changed) == (["t1"], False)
    work = claim(thread, "t1")
    running = thread.take(method, dispatch)
    assert [(hint.task_id, hint.owner) for hint in running.early] == [("t1", "w1")]
    assert (running.after_commit, running.changed) == ([], False)
    thread.take("complete", Complete(task_id="t1", fence=work.fence, outcome=an_outcome()))
    [told] = thread.take(method, dispatch).sends
    assert (told.to, told.method) == (ActorRef("Orchestrator", "t1"), "settle")
    assert Outcome.model_validate(told.body) == an_outcome()
    assert [event.payload["lost"] for event in thread.commits[-1].events] == ["outcome"]
    assert [entry.task_id for entry in thread.state.inbox] == ["t2"]


def test_a_repeated_dispatch_tells_running_work_again_to_stop() -> None:
    thread = a_thread("t1")
    work = claim(thread, "t1")
    thread.take("cancel", Cancel(task_id="t1"))
    for commit in (thread.take("enqueue_again", dispatch_of("t1")), thread.take("redrive")):
        assert commit.after_commit == [Stop(task_id="t1", fence=work.fence, owner="w1")]


def test_a_repeated_dispatch_of_a_task_that_waits_for_a_child_redrives_the_child() -> None:
    thread = a_thread("t1")
    work = claim(thread, "t1")
    thread.take("suspend", waiting_for(work, child=a_task("child")))
    [message] = thread.take("enqueue_again", dispatch_of("t1")).sends
    assert (message.to, message.method) == (ActorRef("Orchestrator", "child"), "redrive")


def test_a_dispatch_whose_first_was_lost_is_taken_and_says_so() -> None:
    thread = a_thread()
    commit = thread.take("enqueue_again", a_dispatch(a_task("t1", thread_id="thread")))
    assert [hint.task_id for hint in commit.early] == ["t1"]
    assert [(event.event_type, event.payload["lost"]) for event in commit.events] == [
        ("task.redriven", "dispatch")
    ]


def test_an_attempt_that_ended_and_is_forgotten_is_claimed_with_its_journal() -> None:
    thread = a_thread()
    ended = [a_dispatch(a_task(f"t{n}", thread_id="thread")) for n in range(MAX_REMEMBERED_ENDS + 1)]
    for dispatch in ended:
        thread.take("enqueue", dispatch)
        work = claim(thread, dispatch.task.task_id)
        outcome = an_outcome(work.task_id)
        thread.take("complete", Complete(task_id=work.task_id, fence=work.fence, outcome=outcome))
    thread.take("enqueue_again", ended[0])
    assert claim(thread, "t0").journaled


def test_what_is_queued_behind_work_whose_worker_died_has_that_work_offered_again() -> None:
    thread = a_thread("t1", "t2")
    claim(thread, "t1")
    [hint] = thread.take("enqueue_again", dispatch_of("t2")).early
    assert (hint.task_id, hint.owner) == ("t1", "w1")


@pytest.mark.parametrize(
    ("kinds", "goes_on"),
    [
        (["provider"], False),
        (["money"], False),
        (["timer", "provider"], False),
        (["person"], True),
        (["event"], True),
        (["task"], True),
        (["provider", "person"], True),
    ],
)
def test_tasks_wait_behind_one_that_waits_for_no_person(kinds: list[WaitKind], goes_on: bool) -> None:
    thread = a_thread("t1", "t2")
    commit = thread.take("suspend", two_waits(claim(thread, "t1"), *kinds))
    assert [offer.task_id for offer in commit.early] == (["t2"] if goes_on else [])
    assert (thread.take("claim", Claim(task_id="t2", owner="w1")).reply is not None) == goes_on


def test_a_task_that_another_waits_for_passes_one_that_holds_the_thread() -> None:
    thread = a_thread("t1", "t2")
    thread.take("suspend", waiting_for(claim(thread, "t1"), child=a_task("t3")))
    thread.take("suspend", two_waits(claim(thread, "t2"), "money"))
    thread.take("enqueue", dispatch_of("t4"))
    thread.take("enqueue", dispatch_of("t3"))
    assert thread.take("claim", Claim(task_id="t4", owner="w1")).reply is None
    claim(thread, "t3")


def test_a_queued_task_is_cancelled_at_once_and_withdrawn() -> None:
    thread = a_thread("t1")
    commit = thread.take("cancel", Cancel(task_id="t1", reason="no longer needed"))
    assert commit.early == [Withdraw(thread.ref, "t1")]
    assert commit.events[0].payload["status"] == "cancelled"
    assert commit.events[0].payload["error"]["message"] == "no longer needed"


def test_only_a_thread_with_something_in_its_inbox_is_obliged() -> None:
    thread = a_thread("t1")
    assert thread.head.has_pending_work
    work = claim(thread, "t1")
    thread.take("complete", Complete(task_id="t1", fence=work.fence, outcome=an_outcome()))
    assert not thread.head.has_pending_work


def test_after_a_restart_what_had_to_stop_is_told_again() -> None:
    thread = a_thread("t1")
    work = claim(thread, "t1")
    thread.take("cancel", Cancel(task_id="t1"))
    stop = Stop(task_id="t1", fence=work.fence, owner="w1")
    assert thread.take("recover").after_commit == [stop, Review(thread.ref)]


def test_a_task_whose_cancel_comes_before_its_dispatch_ends_and_is_never_begun() -> None:
    thread = a_thread()
    cancel = Cancel(task_id="t1", reason="enough", attempt=1)
    [ended] = thread.take("cancel", cancel).events
    assert (ended.payload["status"], ended.payload["error"]["message"]) == ("cancelled", "enough")
    assert thread.take("cancel", cancel).events == []
    commit = thread.take("enqueue", dispatch_of("t1"))
    assert commit.early == []
    [message] = commit.sends
    assert (message.to, message.method) == (ActorRef("Orchestrator", "t1"), "settle")
    assert message.body["status"] == "cancelled"


def test_the_reason_of_the_first_cancel_stands() -> None:
    thread = a_thread("t1")
    claim(thread, "t1")
    for reason in ("too late", "cancelled on request"):
        thread.take("cancel", Cancel(task_id="t1", reason=reason))
    [ended] = thread.take("claim", Claim(task_id="t1", owner="w2", ended_owner="w1", is_settled=True)).events
    assert ended.payload["error"]["message"] == "too late"


def test_the_time_that_a_run_has_had_goes_with_it_through_a_wait() -> None:
    thread = a_thread("t1")
    thread.take("suspend", waiting_for(claim(thread, "t1"), seconds=7.5))
    thread.take("resume", Answer(task_id="t1", key="k"))
    assert claim(thread, "t1").seconds == 7.5


# Several waits


def test_each_of_several_answers_lets_the_task_go_on_and_is_kept() -> None:
    thread = a_thread("t1")
    thread.take("suspend", two_waits(claim(thread, "t1"), "person", "person"))
    commit = thread.take("resume", Answer(task_id="t1", key="k2", value="second", answered_by="ada"))
    assert types_of(commit) == ["wait.ended"]
    work = claim(thread, "t1")
    assert [step.path for step in work.waits] == ["b1.1"]
    commits = [thread.take("resume", Answer(task_id="t1", key=key, value="first")) for key in ("k1", "k2")]
    assert [commit.reply for commit in commits] == [True, False]
    records = [record for commit in thread.commits for record in commit.records if "answers" in record.stream]
    assert [(record.n, record.value["path"]) for record in records] == [(1, "b2.1"), (2, "b1.1")]
    assert (records[0].value["result"], records[0].value["answered_by"]) == ("second", "ada")


def test_an_answer_that_comes_while_the_task_runs_offers_it_as_soon_as_it_waits() -> None:
    thread = a_thread("t1")
    work = claim(thread, "t1")
    registered = two_waits(work, "person", "person")
    waiting = Waiting(task_id="t1", fence=work.fence, waits=registered.waits)
    assert types_of(thread.take("wait_for", waiting)) == ["task.waiting", "task.waiting"]
    [watch] = thread.take("resume", Answer(task_id="t1", key="k1")).early
    assert isinstance(watch, Watch)
    commit = thread.take("suspend", Suspend(task_id="t1", fence=work.fence))
    assert [offer.task_id for offer in commit.early] == ["t1"]
    assert [step.path for step in claim(thread, "t1").waits] == ["b2.1"]


def test_a_thread_is_woken_by_the_first_of_its_waits_and_then_by_the_next() -> None:
    thread = a_thread("t1")
    commit = thread.take("suspend", two_waits(claim(thread, "t1"), "timer", "person", "provider"))
    assert commit.record.wake_at == NOW + timedelta(hours=1)
    for hours, left, results in ((1, ["b2.1", "b3.1"], 1), (2, ["b3.1"], 2), (3, [], 2)):
        thread.now = NOW + timedelta(hours=hours)
        commit = thread.take("wake")
        assert [offer.task_id for offer in commit.early] == ["t1"]
        work = claim(thread, "t1")
        assert [step.path for step in work.waits] == left
        records = [record for each in thread.commits for record in each.records if "answers" in record.stream]
        assert len(records) == results
        thread.take("suspend", Suspend(task_id="t1", fence=work.fence))
    assert records[-1].value["expired"] is True
    assert commit.record.wake_at is None


def test_how_often_a_task_was_parked_goes_with_it() -> None:
    thread = a_thread("t1")
    thread.take("suspend", two_waits(claim(thread, "t1"), "provider"))
    thread.now = NOW + timedelta(hours=1)
    thread.take("wake")
    assert claim(thread, "t1").pauses == 3


def test_a_deadline_stands_still_while_a_person_is_waited_for_and_no_longer() -> None:
    thread = a_thread("t1")
    commits = [thread.take("suspend", two_waits(claim(thread, "t1"), "person", "person"))]
    commits += [thread.take("resume", Answer(task_id="t1", key=key)) for key in ("k1", "k2")]
    told = [[(message.method, message.body["on"]) for message in commit.sends] for commit in commits]
    assert told == [[("pause", True)], [], [("pause", False)]]


def test_a_task_that_ends_cancels_the_tasks_that_it_still_waits_for() -> None:
    thread = a_thread("t1")
    work = claim(thread, "t1")
    suspend = waiting_for(work, child=a_task("child"))
    thread.take("wait_for", Waiting(task_id="t1", fence=1, waits=suspend.waits, children=suspend.children))
    ended = Complete(task_id="t1", fence=work.fence, outcome=an_outcome())
    [message] = thread.take("complete", ended).sends
    assert (message.to, message.method) == (ActorRef("Orchestrator", "child"), "cancel")


@pytest.mark.parametrize("status", ["cancelled", "succeeded"])
def test_the_cost_of_work_that_ends_before_what_it_delegated_is_not_known(status: str) -> None:
    thread = a_thread("t1")
    work = claim(thread, "t1")
    suspend = waiting_for(work, child=a_task("child"))
    thread.take("wait_for", Waiting(task_id="t1", fence=1, waits=suspend.waits, children=suspend.children))
    if status == "cancelled":
        thread.take("cancel", Cancel(task_id="t1"))
    ended = Complete(task_id="t1", fence=work.fence, outcome=an_outcome(status=status))
    assert ended_in(thread.take("complete", ended)) == (status, None)


@pytest.mark.parametrize("was_read", [False, True])
def test_the_cost_of_work_has_that_of_answers_that_a_run_has_read(was_read: bool) -> None:
    thread = a_thread("t1")
    suspend = waiting_for(claim(thread, "t1"), child=a_task("child"), cost_usd=Decimal("0.5"))
    thread.take("suspend", suspend)
    thread.take("resume", Answer(task_id="t1", key="k", value=an_outcome("child", cost_usd=Decimal("0.25"))))
    if not was_read:
        assert ended_in(thread.take("cancel", Cancel(task_id="t1"))) == ("cancelled", None)
        return
    read = an_outcome(cost_usd=Decimal("0.75"))
    commit = thread.take("complete", Complete(task_id="t1", fence=claim(thread, "t1").fence, outcome=read))
    assert ended_in(commit) == ("succeeded", "0.75")


@pytest.mark.parametrize(("answers", "cost"), [(0, None), (1, "0.75")])
def test_the_cost_of_work_is_known_where_its_run_has_read_all_answers(answers: int, cost: str | None) -> None:
    thread = a_thread("t1")
    work = claim(thread, "t1")
    suspend = waiting_for(work, child=a_task("child"))
    thread.take("wait_for", Waiting(task_id="t1", fence=1, waits=suspend.waits, children=suspend.children))
    thread.take("resume", Answer(task_id="t1", key="k", value=an_outcome("child", cost_usd=Decimal("0.25"))))
    outcome = an_outcome(status="failed", cost_usd=Decimal("0.75"))
    ended = Complete(task_id="t1", fence=work.fence, outcome=outcome, answers=answers)
    assert ended_in(thread.take("complete", ended)) == ("failed", cost)


@pytest.mark.parametrize("cost", [None, Decimal("0.5")])
def test_the_next_worker_is_told_that_a_cost_was_open_at_a_wait(cost: Decimal | None) -> None:
    thread = a_thread("t1")
    thread.take("suspend", waiting_for(claim(thread, "t1"), cost_usd=cost))
    thread.take("resume", Answer(task_id="t1", key="k", value="yes"))
    grant = claim(thread, "t1")
    assert (grant.is_cost_open, grant.cost_usd) == (cost is None, cost)


def test_a_run_that_is_stopped_before_it_has_read_an_answer_does_not_know_its_cost() -> None:
    thread = a_thread("t1")
    thread.take("suspend", waiting_for(claim(thread, "t1"), child=a_task("child"), cost_usd=Decimal("0.5")))
    thread.take("resume", Answer(task_id="t1", key="k", value=an_outcome("child", cost_usd=Decimal("0.25"))))
    assert claim(thread, "t1").cost_usd is None


def grouped(work: Grant, count: int) -> Suspend:
    """A run that needs all of some delegated tasks, c1, c2, ..., whose waits are k1, k2, ..."""
    names = range(1, count + 1)
    waits = [
        Wait(wait_id=f"k{n}", kind="task", child_task_id=f"c{n}", step=STEP, group="b1.1") for n in names
    ]
    children = tuple(a_task(f"c{n}") for n in names)
    cost = Decimal("0.5")
    return Suspend(
        task_id=work.task_id, fence=work.fence, waits=tuple(waits), children=children, cost_usd=cost
    )


def child_ended(number: int) -> Answer:
    outcome = an_outcome(f"c{number}", cost_usd=Decimal("0.25"))
    return Answer(task_id="t1", key=f"k{number}", value=outcome)


def test_answers_of_a_group_let_the_task_go_on_with_the_last() -> None:
    thread = a_thread("t1")
    thread.take("suspend", grouped(claim(thread, "t1"), 3))
    offered = [thread.take("resume", child_ended(n)).early for n in (2, 1, 3)]
    assert [bool(offers) for offers in offered] == [False, False, True]
    assert claim(thread, "t1").waits == ()


def test_an_answer_of_a_group_that_comes_while_the_task_runs_does_not_offer_it_again() -> None:
    thread = a_thread("t1")
    work = claim(thread, "t1")
    suspend = grouped(work, 2)
    thread.take("wait_for", Waiting(task_id="t1", fence=1, waits=suspend.waits, children=suspend.children))
    thread.take("resume", child_ended(1))
    assert thread.take("suspend", Suspend(task_id="t1", fence=work.fence)).early == []
    [offer] = thread.take("resume", child_ended(2)).early
    assert offer.task_id == "t1"


@pytest.mark.parametrize(("was_running", "cost"), [(False, "1.00"), (True, None)])
def test_a_cancelled_task_has_the_cost_of_the_answers_of_a_group(was_running: bool, cost: str | None) -> None:
    thread = a_thread("t1")
    work = claim(thread, "t1")
    suspend = grouped(work, 2)
    if was_running:  # its run says what it had cost before that answer
        waiting = Waiting(task_id="t1", fence=1, waits=suspend.waits, children=suspend.children)
        thread.take("wait_for", waiting)
        thread.take("resume", child_ended(1))
        thread.take("suspend", Suspend(task_id="t1", fence=work.fence, cost_usd=Decimal("0.5")))
    else:
        thread.take("suspend", suspend)
        thread.take("resume", child_ended(1))
    thread.take("cancel", Cancel(task_id="t1"))
    assert ended_in(thread.take("resume", child_ended(2))) == ("cancelled", cost)


def test_work_that_has_to_stop_is_not_ended_by_an_answer_that_comes_first() -> None:
    thread = a_thread("t1")
    work = claim(thread, "t1")
    suspend = waiting_for(work, child=a_task("child"))
    thread.take("wait_for", Waiting(task_id="t1", fence=1, waits=suspend.waits, children=suspend.children))
    thread.take("cancel", Cancel(task_id="t1"))
    answer = Answer(task_id="t1", key="k", value=an_outcome("child", status="cancelled"))
    assert thread.take("resume", answer).events == []
    ended = Complete(task_id="t1", fence=work.fence, outcome=an_outcome(status="cancelled"))
    assert ended_in(thread.take("complete", ended)) == ("cancelled", None)


def ended_in(commit: Commit) -> tuple[str, str | None]:
    """The status and the cost of the attempt that ends in a turn."""
    [outcome] = [event.payload for event in commit.events if event.event_type == "attempt.ended"]
    return outcome["status"], outcome["cost_usd"]


class FakeRuntime:
    """A runtime that cannot read one of its threads."""

    def __init__(self) -> None:
        self.is_read = asyncio.Event()

    async def read(self, ref: ActorRef) -> Any:
        if ref == DAMAGED:
            raise ValueError("its state is damaged")
        self.is_read.set()
        return None


async def test_a_damaged_thread_does_not_end_the_review_of_others() -> None:
    runtime = FakeRuntime()
    reviews = Reviews(cast(Runtime, runtime))
    reviews.add(DAMAGED)
    reviews.add(SOUND)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await runtime.is_read.wait()
    reviews.stop()

"""The worker of a process: slots, claims, stops, what breaks off, and drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meshwright.envelope import ActorRef, Message
from meshwright.errors import Draining, HostError, MailboxFull, StoreFailed
from meshwright.hosts.memory import MemoryHost, Store
from meshwright.messages import Event, Outcome
from meshwright.turns import ActorKind
from meshwright.work import (
    AgentThread,
    Answer,
    Cancel,
    Completed,
    Journal,
    Offer,
    ThreadState,
    Withdraw,
    Work,
    Worker,
)
from meshwright.work import worker as worker_module
from meshwright.work.protocol import Stop
from meshwright.work.worker import until_stopped
from tests.unit.turns import a_dispatch, a_task, an_outcome

Script = Callable[[Work, Journal], Any]


class Shop:
    """A host in memory with one worker, whose work is a test's script."""

    def __init__(self, host: MemoryHost, script: Script, slots: int) -> None:
        self.host = host
        self.script = script
        self.worker = Worker(host, self._run, lambda agent_id: slots)
        self.begun: list[str] = []
        self.events: list[Event] = []
        self._changed = asyncio.Event()
        host.register(ActorKind.of(AgentThread, type="helper"))
        host.listen("#", self._note)
        host.attach(self.worker)

    async def queue(self, task_id: str, thread: str | None = None) -> ActorRef:
        """Put a task into the inbox of its thread."""
        ref = ActorRef("helper", f"default:{thread or task_id}")
        await self.host.call(ref, "enqueue", a_dispatch(a_task(task_id, thread_id=thread or task_id)))
        return ref

    async def ended(self, task_id: str) -> Outcome:
        """Wait for the end of an attempt."""
        await self.until(lambda: bool(self.ends(task_id)))
        return self.ends(task_id)[0]

    async def has_begun(self, *task_ids: str) -> None:
        await self.until(lambda: set(task_ids) <= set(self.begun))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def rests(self) -> None:
        """Wait until the worker has nothing under way."""
        while self.worker.running:
            await asyncio.sleep(0)

    def ends(self, task_id: str) -> list[Outcome]:
        ends = [Outcome.model_validate(event.payload) for event in self.of("attempt.ended")]
        return [outcome for outcome in ends if outcome.task_id == task_id]

    def of(self, event_type: str) -> list[Event]:
        return [event for event in self.events if event.event_type == event_type]

    async def inbox(self, ref: ActorRef) -> list[tuple[str, str]]:
        """What is in a thread's inbox: ids and statuses."""
        state = await self.host.read(ref)
        assert isinstance(state, ThreadState)
        return [(entry.task_id, entry.status) for entry in state.inbox]

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    async def _run(self, ref: ActorRef, work: Work, journal: Journal) -> Completed:
        self.begun.append(work.task.task_id)
        self._changed.set()
        await self.script(work, journal)
        task_id = work.task.task_id
        return Completed(task_id=task_id, fence=work.fence, outcome=an_outcome(task_id))


@asynccontextmanager
async def shop(script: Script, *, slots: int = 8, host: MemoryHost | None = None) -> AsyncIterator[Shop]:
    host = host or MemoryHost()
    shop = Shop(host, script, slots)
    await host.start()
    yield shop
    await shop.worker.drain(0)
    await host.stop()


class Gate:
    """Lets work through once it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, work: Work, journal: Journal) -> None:
        await self.opened.wait()


async def at_once(work: Work, journal: Journal) -> None:
    """Work that is done already."""


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    monkeypatch.setattr(worker_module, "BROKEN_OFF_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(worker_module, "MAILBOX_RETRY_SECONDS", 0.0)


# Slots


async def test_no_more_is_worked_on_than_there_are_slots_and_each_end_lets_the_next_begin() -> None:
    gate = Gate()
    async with shop(gate, slots=2) as here:
        for n in range(5):
            await here.queue(f"t{n}")
        await here.has_begun("t0", "t1")
        assert (here.worker.running, here.worker.waiting) == (2, 3)
        gate.opened.set()
        for n in range(5):
            await here.ended(f"t{n}")
        await here.rests()
    assert here.begun == [f"t{n}" for n in range(5)]


async def test_a_claim_that_is_refused_gives_its_slot_back() -> None:
    async with shop(at_once, slots=1) as here:
        ref = ActorRef("helper", "default:none")
        here.worker.signal(ref, Offer(ref, "none", "default", 5, 0.0))
        await here.queue("t1")
        assert (await here.ended("t1")).success
    assert here.begun == ["t1"]


async def test_what_is_withdrawn_is_not_begun() -> None:
    gate = Gate()
    async with shop(gate, slots=1) as here:
        await here.queue("t1")
        await here.has_begun("t1")
        ref = await here.queue("t2")
        assert here.worker.waiting == 1
        here.worker.signal(ref, Withdraw(ref, "t2"))
        assert here.worker.waiting == 0


async def test_an_answer_that_comes_while_its_task_is_put_aside_is_not_lost() -> None:
    async def asks(work: Work, journal: Journal) -> None:
        await journal.wait("ask", {})

    class Hasty(MemoryHost):
        """Answers before the worker that put the task aside is told that it did."""

        async def call(self, ref: ActorRef, method: str, body: Any = None, **options: Any) -> Any:
            reply = await super().call(ref, method, body, **options)
            if method == "suspend":
                await super().call(ref, "resume", Answer(task_id=body.task_id, key=body.key, value="yes"))
            return reply

    async with shop(asks, slots=2, host=Hasty()) as here:
        await here.queue("t1")
        assert (await here.ended("t1")).success
    assert here.begun == ["t1", "t1"]


# Stops


async def test_work_that_is_told_to_stop_ends_as_cancelled() -> None:
    async with shop(Gate()) as here:
        ref = await here.queue("t1")
        await here.has_begun("t1")
        await here.host.call(ref, "cancel", Cancel(task_id="t1"))
        assert (await here.ended("t1")).status == "cancelled"
        assert await here.inbox(ref) == []


async def test_a_stop_that_comes_before_its_claim_is_known_holds_and_nothing_begins() -> None:
    class SlowToAnswer(MemoryHost):
        """A worker learns of its claim only after somebody has cancelled the task."""

        async def call(self, ref: ActorRef, method: str, body: Any = None, **options: Any) -> Any:
            reply = await super().call(ref, method, body, **options)
            if method == "claim":
                await super().call(ref, "cancel", Cancel(task_id="t1"))
            return reply

    async with shop(Gate(), host=SlowToAnswer()) as here:
        await here.queue("t1")
        assert (await here.ended("t1")).status == "cancelled"
    assert here.begun == []


async def test_a_stop_of_an_earlier_claim_does_not_stop_this_one() -> None:
    gate = Gate()
    async with shop(gate) as here:
        ref = await here.queue("t1")
        await here.has_begun("t1")
        here.worker.signal(ref, Stop(task_id="t1", fence=0))
        gate.opened.set()
        assert (await here.ended("t1")).success


async def test_a_stop_that_comes_when_the_work_is_done_does_not_break_off_its_commit() -> None:
    class LastMoment(MemoryHost):
        """A task is cancelled while the end of its work is being committed."""

        async def call(self, ref: ActorRef, method: str, body: Any = None, **options: Any) -> Any:
            if method == "complete":
                await super().call(ref, "cancel", Cancel(task_id="t1"))
            return await super().call(ref, method, body, **options)

    async with shop(at_once, host=LastMoment()) as here:
        ref = await here.queue("t1")
        assert (await here.ended("t1")).success
        await here.rests()
        assert await here.inbox(ref) == []


async def test_a_cancellation_that_is_no_stop_passes() -> None:
    work = asyncio.create_task(until_stopped(asyncio.Event().wait()))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


class Forgetful(MemoryHost):
    """Loses the first event that it is to show to all processes."""

    lost = 0

    def broadcast(self, event: Event) -> None:
        if self.lost:
            super().broadcast(event)
        self.lost += 1


async def test_a_stop_for_this_worker_is_shown_to_nobody_else() -> None:
    host = Forgetful()
    async with shop(Gate(), host=host) as here:
        ref = await here.queue("t1")
        await here.has_begun("t1")
        await host.call(ref, "cancel", Cancel(task_id="t1"))
        await here.ended("t1")
    assert host.lost == 0


async def test_a_stop_that_did_not_reach_the_worker_that_works_is_told_again_by_a_redrive() -> None:
    store = Store()
    elsewhere = Forgetful(store=store)
    async with shop(Gate(), host=MemoryHost(store=store)) as here, shop(Gate(), host=elsewhere):
        ref = await here.queue("t1")
        await here.has_begun("t1")
        await elsewhere.call(ref, "cancel", Cancel(task_id="t1"))
        assert (elsewhere.lost, await here.inbox(ref)) == (1, [("t1", "running")])
        await elsewhere.call(ref, "redrive")
        await here.rests()
        assert await here.inbox(ref) == []


# Offers that come again


class Counting(MemoryHost):
    """Counts the claims that it is asked for."""

    claims = 0

    async def call(self, ref: ActorRef, method: str, body: Any = None, **options: Any) -> Any:
        self.claims += method == "claim"
        return await super().call(ref, method, body, **options)


async def test_what_a_worker_has_is_not_claimed_again_however_often_it_is_offered() -> None:
    gate, host = Gate(), Counting()
    async with shop(gate, host=host) as here:
        ref = await here.queue("t1")
        await here.has_begun("t1")
        for _ in range(3):
            await host.call(ref, "redrive")
        gate.opened.set()
        await here.ended("t1")
        await here.rests()
    assert (here.begun, host.claims) == (["t1"], 1)


async def test_what_another_worker_has_is_not_asked_for_while_that_one_lives() -> None:
    store, gate = Store(), Gate()
    elsewhere = Counting(store=store)
    async with shop(gate, host=MemoryHost(store=store)) as here, shop(gate, host=elsewhere) as there:
        ref = await here.queue("t1")
        await here.has_begun("t1")
        await elsewhere.call(ref, "redrive")
        await there.rests()
        assert elsewhere.claims == 0
        await here.worker.drain(0)
        await here.host.crash()
        await elsewhere.call(ref, "redrive")
        await there.has_begun("t1")
    assert elsewhere.claims == 1


# Lapses


async def test_a_worker_that_lapsed_lets_go_of_what_runs_and_of_what_waits_and_takes_what_comes() -> None:
    async with shop(Gate(), slots=1) as here:
        running = await here.queue("t1")
        await here.has_begun("t1")
        waiting = await here.queue("t2")
        here.worker.lapsed()
        assert here.worker.waiting == 0
        await here.rests()
        assert await here.inbox(running) == [("t1", "running")]
        assert await here.inbox(waiting) == [("t2", "queued")]
        assert not here.of("attempt.ended")
        await here.queue("t3")
        await here.has_begun("t3")
        assert here.begun == ["t1", "t3"]


# What breaks off


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("error", [HostError("not now"), MailboxFull("no room"), RuntimeError("a defect")])
async def test_work_that_broke_off_is_taken_up_again_under_a_new_fence(error: Exception) -> None:
    fences: list[int] = []

    async def breaks_off_once(work: Work, journal: Journal) -> None:
        fences.append(work.fence)
        if len(fences) == 1:
            raise error

    async with shop(breaks_off_once, slots=1) as here:
        await here.queue("t1")
        assert (await here.ended("t1")).success
    assert fences == [1, 2]
    assert len(here.of("task.resumed")) == 1


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("error", [StoreFailed("disk full"), Draining("stopping")])
async def test_work_whose_host_ends_is_left_to_the_next_start(error: HostError) -> None:
    async def breaks_off(work: Work, journal: Journal) -> None:
        raise error

    async with shop(breaks_off) as here:
        ref = await here.queue("t1")
        await here.has_begun("t1")
        await here.rests()
        for n in range(20):  # turns go on
            await here.queue(f"another{n}", thread="t1")
        assert here.begun == ["t1"]
        assert (await here.inbox(ref))[:2] == [("t1", "running"), ("another0", "queued")]


@pytest.mark.usefixtures("no_pauses")
async def test_the_end_of_work_waits_for_room_in_the_mailbox() -> None:
    host = MemoryHost(max_mailbox=3)

    async def fills_the_mailbox(work: Work, journal: Journal) -> None:
        ref = ActorRef("helper", "default:t1")
        for n in range(3):
            await host.send(Message(f"m{n}", ref, "resume", Answer(task_id="none", key="none")))
        with pytest.raises(MailboxFull):
            await host.call(ref, "resume", Answer(task_id="none", key="none"))

    async with shop(fills_the_mailbox, host=host) as here:
        await here.queue("t1")
        assert (await here.ended("t1")).success
    assert here.begun == ["t1"]


# Drains


async def test_a_drain_of_a_worker_without_work_ends_at_once() -> None:
    async with shop(at_once) as here:
        await here.worker.drain(60)


async def test_a_draining_worker_begins_nothing_and_waits_for_what_runs() -> None:
    gate = Gate()
    async with shop(gate, slots=1) as here:
        await here.queue("t1")
        await here.has_begun("t1")
        await here.queue("t2")
        drain = asyncio.create_task(here.worker.drain(60))
        await asyncio.sleep(0)
        await here.queue("t3")
        gate.opened.set()
        await drain
        assert here.ends("t1")
        assert (here.worker.running, here.begun) == (0, ["t1"])


async def test_what_has_not_ended_in_time_is_left_as_it_is() -> None:
    async with shop(Gate()) as here:
        ref = await here.queue("t1")
        await here.has_begun("t1")
        await here.worker.drain(0)
        assert here.worker.running == 0
        assert await here.inbox(ref) == [("t1", "running")]
        assert not here.of("attempt.ended")

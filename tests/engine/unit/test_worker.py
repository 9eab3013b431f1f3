"""The worker of a process: slots, claims, offers that come again, and what breaks off."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from meshwright.core.errors import Draining, HostError, MailboxFull, StoreFailed
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.stores.memory import MemoryData
from meshwright.engine.work import Answer, Journal, Offer, Withdraw, Work, claims
from meshwright.engine.work import worker as worker_module
from meshwright.testing.mesh import memory_runtime
from tests.support.turn_driver import NOW
from tests.support.worker_harness import Gate, at_once, worker_harness


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "BROKEN_OFF_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(claims, "MAILBOX_RETRY_SECONDS", 0.0)


# Slots


async def test_a_claim_that_is_refused_gives_its_slot_back() -> None:
    async with worker_harness(at_once, slots=1) as here:
        ref = ActorRef("helper", "default:none")
        here.worker.signal(ref, Offer(ref, "none", "default", 5, 0.0))
        await here.queue("t1")
        assert (await here.ended("t1")).success
    assert here.begun == ["t1"]


async def test_what_is_withdrawn_is_not_begun() -> None:
    gate = Gate()
    async with worker_harness(gate, slots=1) as here:
        await here.queue("t1")
        await here.has_begun("t1")
        ref = await here.queue("t2")
        assert here.worker.waiting == 1
        here.worker.signal(ref, Withdraw(ref, "t2"))
        assert here.worker.waiting == 0


async def test_a_task_whose_dispatch_comes_after_its_deadline_is_not_begun() -> None:
    async with worker_harness(at_once) as here:
        await here.queue("t1", deadline_at=NOW, ended=True)
        assert (await here.ended("t1")).status == "cancelled"
    assert here.begun == []


async def test_an_answer_that_comes_while_its_task_is_put_aside_is_not_lost() -> None:
    async def asks(work: Work, journal: Journal) -> None:
        await journal.wait("ask", {})

    class Hasty(Runtime):
        """Answers before the worker that put the task aside is told that it did."""

        async def call(self, ref: ActorRef, method: str, body: Any = None, **options: Any) -> Any:
            reply = await super().call(ref, method, body, **options)
            if method == "suspend":
                await super().call(
                    ref, "resume", Answer(task_id=body.task_id, key=body.waits[0].wait_id, value="yes")
                )
            return reply

    async with worker_harness(asks, slots=2, runtime=memory_runtime(sort=Hasty)) as here:
        await here.queue("t1")
        assert (await here.ended("t1")).success
    assert here.begun == ["t1", "t1"]


# Offers that come again


class Counting(Runtime):
    """Counts the claims that it is asked for: a task that finds a free slot is claimed as it is queued."""

    claims = 0

    async def call(self, ref: ActorRef, method: str, body: Any = None, **options: Any) -> Any:
        self.claims += method == "claim"
        return await super().call(ref, method, body, **options)


async def test_what_a_worker_has_is_not_claimed_again_however_often_it_is_offered() -> None:
    gate, runtime = Gate(), memory_runtime(sort=Counting)
    async with worker_harness(gate, runtime=runtime) as here:
        ref = await here.queue("t1")
        await here.has_begun("t1")
        for _ in range(3):
            await runtime.call(ref, "redrive")
        gate.opened.set()
        await here.ended("t1")
        await here.rests()
    assert (here.begun, runtime.claims) == (["t1"], 0)


async def test_what_another_worker_has_is_not_asked_for_while_that_one_lives() -> None:
    data, gate = MemoryData(), Gate()
    elsewhere = memory_runtime(sort=Counting, data=data)
    async with (
        worker_harness(gate, runtime=memory_runtime(data=data)) as here,
        worker_harness(gate, runtime=elsewhere) as there,
    ):
        ref = await here.queue("t1")
        await here.has_begun("t1")
        await elsewhere.call(ref, "redrive")
        await there.rests()
        assert elsewhere.claims == 0
        await here.worker.drain(0)
        await here.runtime.crash()
        await elsewhere.call(ref, "redrive")
        await there.has_begun("t1")
    assert elsewhere.claims == 1


# Lapses


async def test_a_worker_that_lost_its_lease_lets_go_of_what_runs_and_of_what_waits_and_takes_what_comes() -> (
    None
):
    async with worker_harness(Gate(), slots=1) as here:
        running = await here.queue("t1")
        await here.has_begun("t1")
        waiting = await here.queue("t2")
        here.worker.lease_lost()
        assert here.worker.waiting == 0
        await here.rests()
        assert await here.inbox(running) == [("t1", "running")]
        assert await here.inbox(waiting) == [("t2", "queued")]
        assert not here.of("attempt.ended")
        await here.queue("t3")
        await here.has_begun("t3")
        assert here.begun == ["t1", "t3"]


async def test_work_that_is_let_go_before_its_first_step_keeps_no_slot() -> None:
    async with worker_harness(at_once, slots=1) as here:
        ref = ActorRef("helper", "default:t1")
        here.worker.signal(ref, Offer(ref, "t1", "default", 5, 0.0))
        here.worker.lease_lost()
        await here.queue("t1")
        assert (await here.ended("t1")).success


# What breaks off


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("error", [HostError("not now"), MailboxFull("no room"), RuntimeError("a defect")])
async def test_work_that_broke_off_is_taken_up_again_under_a_new_fence(error: Exception) -> None:
    fences: list[int] = []

    async def breaks_off_once(work: Work, journal: Journal) -> None:
        fences.append(work.fence)
        if len(fences) == 1:
            raise error

    async with worker_harness(breaks_off_once, slots=1) as here:
        await here.queue("t1")
        assert (await here.ended("t1")).success
    assert fences == [1, 2]
    assert len(here.of("task.resumed")) == 1


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    "error", [RuntimeError("a defect"), BaseExceptionGroup("unhandled", [GeneratorExit("a defect")])]
)
async def test_work_that_breaks_off_again_and_again_fails(error: BaseException) -> None:
    async def breaks_off(work: Work, journal: Journal) -> None:
        if work.task.task_id == "t1":
            raise error

    async with worker_harness(breaks_off, slots=1) as here:
        await here.queue("t1", thread="one")
        outcome = await here.ended("t1")
        await here.queue("t2", thread="one")
        assert (await here.ended("t2")).success
    assert here.begun == ["t1"] * 3 + ["t2"]
    assert outcome.error is not None
    assert (outcome.status, outcome.error.type) == ("failed", "BrokeOff")
    assert "broke off 3 times" in outcome.error.message
    breaks = [event.payload for event in here.of("work.broke_off")]
    assert [told["breaks"] for told in breaks] == [1, 2, 3]
    assert all(type(error).__name__ in told["error"] for told in breaks)


class Raising(logging.Handler):
    """A handler that breaks the rule of its kind."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ValueError("no log takes this")


@pytest.mark.usefixtures("no_pauses")
async def test_work_ends_where_a_log_handler_raises() -> None:
    async def breaks_off(work: Work, journal: Journal) -> None:
        raise RuntimeError("a defect")

    asyncio.get_running_loop().set_exception_handler(lambda loop, known: None)  # it would fail the test
    handler, work_logger = Raising(), logging.getLogger("meshwright.work")
    work_logger.addHandler(handler)
    try:
        async with worker_harness(breaks_off, slots=1) as here:
            await here.queue("t1")
            assert (await here.ended("t1")).status == "failed"
    finally:
        work_logger.removeHandler(handler)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("error", [StoreFailed("disk full"), Draining("stopping")])
async def test_work_whose_host_ends_is_left_to_the_next_start(error: HostError) -> None:
    async def breaks_off(work: Work, journal: Journal) -> None:
        raise error

    async with worker_harness(breaks_off) as here:
        ref = await here.queue("t1")
        await here.has_begun("t1")
        await here.rests()
        for n in range(20):  # turns go on
            await here.queue(f"another{n}", thread="t1")
        assert here.begun == ["t1"]
        assert (await here.inbox(ref))[:2] == [("t1", "running"), ("another0", "queued")]


@pytest.mark.usefixtures("no_pauses")
async def test_the_end_of_work_waits_for_room_in_the_mailbox() -> None:
    runtime = memory_runtime(max_mailbox=3)
    sending: list[asyncio.Future[list[None]]] = []

    async def fills_the_mailbox(work: Work, journal: Journal) -> None:
        ref = ActorRef("helper", "default:t1")
        answer = Answer(task_id="none", key="none")
        sends = [asyncio.create_task(runtime.send(Message(f"m{n}", ref, "resume", answer))) for n in range(3)]
        await asyncio.sleep(0)  # all have begun
        with pytest.raises(MailboxFull):
            await runtime.call(ref, "resume", answer)
        sending.append(asyncio.gather(*sends))

    async with worker_harness(fills_the_mailbox, runtime=runtime) as here:
        await here.queue("t1")
        assert (await here.ended("t1")).success
        await sending[0]
    assert here.begun == ["t1"]

"""Work that is told to stop, and a worker that is: stops and drains."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshwright.core.events import Event
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.stores.memory import MemoryData
from meshwright.engine.work import Cancel
from meshwright.engine.work.protocol import Accept, Stop
from meshwright.engine.work.worker import until_stopped
from meshwright.testing.mesh import memory_runtime
from tests.support.turn_driver import a_dispatch, a_task
from tests.support.worker_harness import Gate, at_once, worker_harness

# Stops


async def test_a_stop_that_comes_before_its_claim_is_known_holds_and_nothing_begins() -> None:
    class SlowToAnswer(Runtime):
        """A worker learns of its claim only after somebody has cancelled the task."""

        async def call(self, ref: ActorRef, method: str, body: Any = None, **options: Any) -> Any:
            reply = await super().call(ref, method, body, **options)
            if method == "claim":
                await super().call(ref, "cancel", Cancel(task_id="t1"))
            return reply

    async with worker_harness(Gate(), runtime=memory_runtime(sort=SlowToAnswer)) as here:
        here.worker.hold()  # so that it is offered, and claimed by a call
        await here.queue("t1")
        here.worker.begin()
        assert (await here.ended("t1")).status == "cancelled"
    assert here.begun == []


async def test_a_cancel_behind_the_turn_that_claims_a_task_lets_nothing_begin() -> None:
    async with worker_harness(Gate()) as here:
        await here.runtime.call(ActorRef("Orchestrator", "t1"), "accept", Accept.wrap(a_task("t1")))
        ref = ActorRef("helper", "default:t1")
        dispatch = a_dispatch(a_task("t1")).model_dump_json().encode()
        queued = here.runtime.call(ref, "enqueue", dispatch)
        await asyncio.gather(queued, here.runtime.call(ref, "cancel", Cancel(task_id="t1")))
        assert (await here.ended("t1")).status == "cancelled"
    assert here.begun == []


async def test_a_stop_of_an_earlier_claim_does_not_stop_this_one() -> None:
    gate = Gate()
    async with worker_harness(gate) as here:
        ref = await here.queue("t1")
        await here.has_begun("t1")
        here.worker.signal(ref, Stop(task_id="t1", fence=0))
        gate.opened.set()
        assert (await here.ended("t1")).success


async def test_a_stop_that_comes_when_the_work_is_done_does_not_break_off_its_commit() -> None:
    class LastMoment(Runtime):
        """A task is cancelled while the end of its work is being committed."""

        async def call(self, ref: ActorRef, method: str, body: Any = None, **options: Any) -> Any:
            if method == "complete":
                await super().call(ref, "cancel", Cancel(task_id="t1"))
            return await super().call(ref, method, body, **options)

    async with worker_harness(at_once, runtime=memory_runtime(sort=LastMoment)) as here:
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


class Forgetful(Runtime):
    """Loses the first event that it is to show to all processes."""

    lost = 0

    def broadcast(self, event: Event) -> None:
        if self.lost:
            super().broadcast(event)
        self.lost += 1


async def test_a_stop_for_this_worker_is_shown_to_nobody_else() -> None:
    runtime = memory_runtime(sort=Forgetful)
    async with worker_harness(Gate(), runtime=runtime) as here:
        ref = await here.queue("t1")
        await here.has_begun("t1")
        await runtime.call(ref, "cancel", Cancel(task_id="t1"))
        await here.ended("t1")
    assert runtime.lost == 0


async def test_a_stop_that_did_not_reach_the_worker_that_works_is_told_again_by_a_redrive() -> None:
    data = MemoryData()
    elsewhere = memory_runtime(sort=Forgetful, data=data)
    async with (
        worker_harness(Gate(), runtime=memory_runtime(data=data)) as here,
        worker_harness(Gate(), runtime=elsewhere),
    ):
        ref = await here.queue("t1")
        await here.has_begun("t1")
        await elsewhere.call(ref, "cancel", Cancel(task_id="t1"))
        assert (elsewhere.lost, await here.inbox(ref)) == (1, [("t1", "running")])
        await elsewhere.call(ref, "redrive")
        await here.rests()
        assert await here.inbox(ref) == []


# Drains


async def test_a_drain_of_a_worker_without_work_ends_at_once() -> None:
    async with worker_harness(at_once) as here, asyncio.timeout(60):
        await here.worker.drain(1e6)
        ref = await here.queue("t1")
        assert await here.inbox(ref) == [("t1", "queued")]
        assert (here.worker.running, here.begun) == (0, [])


async def test_what_has_not_ended_in_time_is_left_as_it_is() -> None:
    async with worker_harness(Gate()) as here:
        ref = await here.queue("t1")
        await here.has_begun("t1")
        await here.worker.drain(0)
        assert here.worker.running == 0
        assert await here.inbox(ref) == [("t1", "running")]
        assert not here.of("attempt.ended")

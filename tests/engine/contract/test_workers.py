"""Several workers on the same data: they share the tasks, and take over what one of them leaves behind."""

import asyncio

import pytest

from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work import Cancel
from tests.support.harness import SHARED, RuntimeHarness
from tests.support.observer import PATIENCE_SECONDS
from tests.support.work_scripts import one_step, three_steps
from tests.support.worker_pool import Shift, StartWorkers, WorkerPool

pytestmark = pytest.mark.parametrize("harness", SHARED, indirect=True)

T1 = ActorRef("helper", "default:t1")
T2 = ActorRef("helper", "default:t2")


async def two_hosts(pool: WorkerPool) -> tuple[Runtime, Runtime]:
    """The host that works on t1, which the test holds in its step, and another that is idle."""
    first, second = pool.runtime, await pool.reinforce()
    await pool.submit("t1")
    await pool.until(lambda: bool(pool.begun) and bool(pool.events("task.started")))
    at_work = first.incarnation == owners(pool)[-1]
    return (first, second) if at_work else (second, first)


def owners(pool: WorkerPool) -> list[str]:
    """Which runs of workers have claimed t1, one after another."""
    claims = [*pool.events("task.started", "t1"), *pool.events("task.resumed", "t1")]
    return [event.payload["owner"] for event in claims]


async def is_known_to_be_gone(incarnation: str, runtime: Runtime) -> None:
    """Wait until a host knows that a run of a worker has ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await runtime.has_expired(incarnation):
            await asyncio.sleep(0.02)  # a lease runs out by the clock, and nobody says so


async def test_two_workers_share_the_tasks_of_a_fleet(
    harness: RuntimeHarness, start_workers: StartWorkers
) -> None:
    pool = await start_workers(one_step, slots=1)
    for name in ("t1", "t2"):
        pool.hold(f"{name} work")
    busy, idle = await two_hosts(pool)
    await pool.submit("t2")
    await pool.queued("t2", "t2")
    await harness.redrive(idle, T2)
    await pool.has_begun("t2 work")
    assert [pool.worker_of(runtime).running for runtime in (busy, idle)] == [1, 1]
    for name in ("t1", "t2"):
        pool.let_go(f"{name} work")
        assert (await pool.outcome(name)).success
    assert sorted(pool.begun) == ["t1 work", "t2 work"]


async def test_a_task_is_not_taken_from_a_worker_that_lives(
    harness: RuntimeHarness, start_workers: StartWorkers
) -> None:
    pool = await start_workers(one_step)
    pool.hold("t1 work")
    busy, idle = await two_hosts(pool)
    for runtime in (busy, idle):
        await harness.redrive(runtime, T1)
    await rests(pool, idle)
    assert pool.begun == ["t1 work"]
    pool.let_go("t1 work")
    assert (await pool.outcome("t1")).text == "work by 1"
    await rests(pool, busy)
    assert (pool.begun, len(pool.events("attempt.ended"))) == (["t1 work"], 1)


async def rests(pool: WorkerPool, runtime: Runtime) -> None:
    """Wait until a host's worker has nothing under way."""
    while pool.worker_of(runtime).running:
        await asyncio.sleep(0)


async def test_a_cancel_reaches_the_worker_that_works_from_any_process(
    harness: RuntimeHarness, start_workers: StartWorkers
) -> None:
    pool = await start_workers(one_step)
    pool.hold("t1 work")
    busy, idle = await two_hosts(pool)
    await idle.call(T1, "cancel", Cancel(task_id="t1", reason="no longer needed"))
    assert (await pool.outcome("t1")).status == "cancelled"
    await rests(pool, busy)
    assert pool.begun == ["t1 work"]


async def test_what_a_killed_worker_had_is_taken_up_by_one_of_the_others(
    harness: RuntimeHarness, start_workers: StartWorkers
) -> None:
    pool = await start_workers(three_steps)
    pool.hold("t1 second")
    busy, idle = await two_hosts(pool)
    third = await harness.open_beside(idle)
    await pool.has_begun("t1 second")
    pool.runtime = idle
    await pool.kill(busy)
    await is_known_to_be_gone(busy.incarnation, idle)
    await asyncio.gather(*[harness.redrive(runtime, T1) for runtime in (idle, third, idle, third)])
    await pool.has_begun("t1 second", times=2)
    pool.let_go("t1 second")
    assert (await pool.outcome("t1")).text == "first by 1, second by 2, third by 2"
    assert pool.begun == ["t1 first", "t1 second", "t1 second", "t1 third"]
    assert pool.events("work.discarded") == []


async def test_a_task_that_was_cancelled_when_its_worker_died_ends_with_the_next_redrive(
    harness: RuntimeHarness, start_workers: StartWorkers
) -> None:
    pool = await start_workers(one_step)
    pool.hold("t1 work")
    busy, idle = await two_hosts(pool)
    pool.runtime = idle
    await pool.kill(busy)
    await pool.cancel("t1")
    await is_known_to_be_gone(busy.incarnation, idle)
    await harness.redrive(idle, ActorRef("Orchestrator", "t1"))
    assert (await pool.outcome("t1")).status == "cancelled"
    assert pool.begun == ["t1 work"]


async def test_a_worker_that_lost_its_lease_lets_its_work_go_and_goes_on_under_another_name(
    harness: RuntimeHarness, start_workers: StartWorkers
) -> None:
    pool = await start_workers(three_steps)
    pool.hold("t1 second")
    await pool.submit("t1")
    await pool.has_begun("t1 second")
    before = pool.runtime.incarnation
    await harness.lose_lease(pool.runtime)
    await pool.has_begun("t1 second", times=2)
    pool.let_go("t1 second")
    assert (await pool.outcome("t1")).text == "first by 1, second by 2, third by 2"
    assert await pool.runtime.has_expired(before)
    assert owners(pool) == [before, pool.runtime.incarnation]
    assert pool.begun == ["t1 first", "t1 second", "t1 second", "t1 third"]


async def test_a_worker_that_is_stopped_while_it_begins_anew_has_let_go_of_everything(
    harness: RuntimeHarness, start_workers: StartWorkers
) -> None:
    pool = await start_workers(three_steps)
    pool.hold("t1 second")
    await pool.submit("t1")
    await pool.has_begun("t1 second")
    await harness.lose_lease(pool.runtime)
    await pool.restart()
    await pool.has_begun("t1 second", times=2)
    pool.let_go("t1 second")
    assert (await pool.outcome("t1")).text == "first by 1, second by 2, third by 2"


async def test_a_worker_that_lost_its_lease_commits_nothing_of_what_another_has_claimed(
    harness: RuntimeHarness, start_workers: StartWorkers
) -> None:
    async def does_not_let_go(shift: Shift) -> str:
        try:
            return await shift.do("work")
        except asyncio.CancelledError:
            await shift.pool.begin("t1 late")
            return "too late"

    pool = await start_workers(does_not_let_go)
    pool.hold("t1 work")
    pool.hold("t1 late")
    zombie, idle = await two_hosts(pool)
    before = zombie.incarnation
    await harness.lose_lease(zombie)
    await pool.has_begun("t1 late")
    await is_known_to_be_gone(before, idle)
    await harness.redrive(idle, T1)
    await pool.has_begun("t1 work", times=2)
    pool.let_go("t1 late")
    await pool.until(lambda: bool(pool.events("work.discarded", "t1")))
    pool.let_go("t1 work")
    assert (await pool.outcome("t1")).text == "work by 2"
    await pool.until(lambda: len(owners(pool)) > 1)  # a claim may be told after the outcome, as may an end
    assert owners(pool) == [before, idle.incarnation]
    await pool.until(lambda: bool(pool.events("attempt.ended")))
    assert len(pool.events("attempt.ended")) == 1

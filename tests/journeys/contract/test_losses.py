"""Whole tasks on a bus that loses what it is to deliver: each task has one outcome, and is run once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshwright.core.errors import ToolFailed
from tests.support.harness import LOSSY, RuntimeHarness
from tests.support.work_scripts import delegates, one_step, three_steps
from tests.support.worker_pool import Shift, StartWorkers


@pytest.fixture(params=list(LOSSY))
async def harness(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> AsyncIterator[RuntimeHarness]:
    sort, number = LOSSY[request.param]
    harness = sort(tmp_path, seed + number)
    yield harness
    await harness.close()


async def test_every_task_gets_one_outcome_and_every_step_is_done_once(start_workers: StartWorkers) -> None:
    pool = await start_workers(three_steps)
    names = [f"t{n}" for n in range(20)]
    await asyncio.gather(*[pool.submit(name, thread_id=f"thread{n % 5}") for n, name in enumerate(names)])
    for name in names:
        assert (await pool.outcome(name)).success
    assert pool.events("task.redriven")
    assert Counter(event.task_id for event in pool.finals()) == Counter(names)
    assert Counter(event.task_id for event in pool.events("attempt.ended")) == Counter(names)
    assert Counter(pool.begun) == Counter(f"{name} {step}" for name in names for step in STEPS)


STEPS = ("first", "second", "third")


async def test_delegated_tasks_come_back(start_workers: StartWorkers) -> None:
    pool = await start_workers(delegates)
    names = [f"parent{n}" for n in range(8)]
    for name in names:
        await pool.submit(name)
    for name in names:
        assert (await pool.outcome(name)).text.startswith("succeeded: work by")
    await pool.until(lambda: len(pool.finals()) == 2 * len(names))
    assert max(Counter(pool.begun).values()) == 1


async def test_a_failed_attempt_is_made_again_by_another_agent(start_workers: StartWorkers) -> None:
    async def fails_at_first(shift: Shift) -> str:
        if shift.work.dispatch.attempt < 3:
            raise ToolFailed("not today")
        return await shift.do("work")

    pool = await start_workers(fails_at_first, agents=("helper", "other", "third"))
    names = [f"t{n}" for n in range(8)]
    for name in names:
        await pool.submit(name)
    for name in names:
        assert (await pool.outcome(name)).attempt == 3
    assert len(pool.events("attempt.failed")) == 2 * len(names)


async def test_what_is_cancelled_ends_as_cancelled_wherever_it_is_on_its_road(
    start_workers: StartWorkers,
) -> None:
    pool = await start_workers(one_step, slots=1)
    names = [f"t{n}" for n in range(8)]
    for n, name in enumerate(names):
        pool.hold(f"{name} work")
        await pool.submit(name, thread_id=f"thread{n % 2}")
    for name in names:
        await pool.cancel(name)
    for name in names:
        assert (await pool.outcome(name)).status == "cancelled"


async def test_what_was_lost_before_a_crash_comes_after_it(start_workers: StartWorkers) -> None:
    pool = await start_workers(one_step)
    names = [f"t{n}" for n in range(10)]
    for name in names:
        await pool.submit(name)
        await pool.crash()
    for name in names:
        assert (await pool.outcome(name)).success

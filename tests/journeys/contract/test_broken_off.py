"""Work that ends its process, on every store: counted with the task, and apart from what ran beside it."""

import pytest

from tests.support.harness import STEADY
from tests.support.work_scripts import one_step, three_steps
from tests.support.worker_pool import StartWorkers

pytestmark = pytest.mark.parametrize("harness", STEADY, indirect=True)  # no fault restarts it besides


async def test_a_task_that_ends_its_process_three_times_fails_and_its_bystander_succeeds(
    start_workers: StartWorkers,
) -> None:
    pool = await start_workers(one_step, agents=("helper", "other"))
    for name in ("poison", "bystander"):
        pool.hold(f"{name} work")
        await pool.submit(name)
    for times in (1, 2):
        for name in ("poison", "bystander"):
            await pool.has_begun(f"{name} work", times)
        await pool.crash()
    await pool.until(lambda: len(pool.begun) == 5)  # one of them, alone
    is_bystander = pool.begun[-1] == "bystander work"
    if is_bystander:
        pool.let_go("bystander work")
        await pool.has_begun("poison work", 3)
    await pool.crash()
    outcome = await pool.outcome("poison")
    if not is_bystander:
        pool.let_go("bystander work")
    assert (await pool.outcome("bystander")).success
    assert outcome.error is not None
    assert (outcome.status, outcome.error.type, outcome.attempt) == ("failed", "BrokeOff", 1)
    assert "broke off 3 times in a row" in outcome.error.message
    assert "its process ended" in outcome.error.message
    assert (pool.begun.count("poison work"), pool.begun.count("bystander work")) == (3, 3)
    await pool.until(lambda: bool(pool.events("task.dead_lettered", "poison")))
    assert [event.payload["breaks"] for event in pool.events("work.broke_off", "poison")] == [1, 2, 3]


async def test_a_claim_that_finished_a_step_does_not_count(start_workers: StartWorkers) -> None:
    pool = await start_workers(three_steps)
    for name in ("first", "second", "third"):
        pool.hold(f"t1 {name}")
    await pool.submit("t1")
    for name in ("first", "second", "third"):
        for times in (1, 2):
            await pool.has_begun(f"t1 {name}", times)
            if times == 1:
                await pool.crash()
        pool.let_go(f"t1 {name}")
    assert (await pool.outcome("t1")).success
    assert {event.payload["breaks"] for event in pool.events("work.broke_off")} == {1}


async def test_a_stop_of_the_process_does_not_count(start_workers: StartWorkers) -> None:
    pool = await start_workers(one_step)
    pool.hold("t1 work")
    await pool.submit("t1")
    for times in range(1, 5):
        await pool.has_begun("t1 work", times)
        await pool.restart()
    pool.let_go("t1 work")
    assert (await pool.outcome("t1")).success
    assert not pool.events("work.broke_off")

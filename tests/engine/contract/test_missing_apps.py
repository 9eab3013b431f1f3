"""An app that is gone while its sidecar lives: daprd may ack for it what nobody took, and nothing is lost.

Over HTTP daprd was seen to take the failure of one delivery for another's, and to report success for calls
that never ran (1.18.2); on either channel it takes messages of the shared topics that nobody answers.
"""

import asyncio

import pytest

from meshwright.engine.kernel.runtime import Runtime
from tests.support.harness import RuntimeHarness
from tests.support.work_scripts import one_step
from tests.support.worker_pool import StartWorkers

TASKS = 20

pytestmark = [pytest.mark.parametrize("harness", ["dapr", "dapr-http"], indirect=True)]


async def test_tasks_that_a_sidecar_took_for_an_app_that_is_gone_get_their_outcomes(
    harness: RuntimeHarness, start_workers: StartWorkers
) -> None:
    pool = await start_workers(one_step)
    deaf, runtime = pool.runtime, await pool.reinforce()
    assert isinstance(deaf, Runtime)
    await pool.worker_of(deaf).drain(0)
    await deaf.crash()  # its daprd goes on, and gets its share of what is published
    pool.runtime = runtime
    names = [f"t{n}" for n in range(TASKS)]
    await asyncio.gather(*map(pool.submit, names))
    async with asyncio.timeout(240):
        while len(pool.finals()) < TASKS:
            await asyncio.sleep(0.1)  # redrives come by the clock
    assert sorted(event.task_id or "" for event in pool.finals()) == sorted(names)
    assert sorted(pool.begun) == sorted(f"{name} work" for name in names)

"""An app that is gone while its sidecar lives: daprd may ack for it what nobody took, and nothing is lost.

Over HTTP daprd was seen to take the failure of one delivery for another's, and to report success for calls
that never ran (1.18.2); on either channel it takes messages of the shared topics that nobody answers.
"""

import asyncio

import pytest

from meshwright.hosts.dapr import DaprHost
from tests.contract.crew import Hire
from tests.contract.scripts import one_step
from tests.contract.stands import Stand

TASKS = 20

pytestmark = [
    pytest.mark.parametrize("stand", ["dapr", "dapr-http"], indirect=True),
    pytest.mark.timeout(90),
]


async def test_tasks_that_a_sidecar_took_for_an_app_that_is_gone_get_their_outcomes(
    stand: Stand, hire: Hire
) -> None:
    crew = await hire(one_step)
    deaf, host = crew.host, await crew.reinforce()
    assert isinstance(deaf, DaprHost)
    await crew.worker_of(deaf).drain(0)
    await deaf.crash()  # its daprd goes on, and gets its share of what is published
    crew.host = host
    names = [f"t{n}" for n in range(TASKS)]
    await asyncio.gather(*map(crew.submit, names))
    async with asyncio.timeout(60):
        while len(crew.finals()) < TASKS:
            await asyncio.sleep(0.1)  # redrives come by the clock
    assert sorted(event.task_id or "" for event in crew.finals()) == sorted(names)
    assert sorted(crew.begun) == sorted(f"{name} work" for name in names)

"""The whole road on a bus that loses what it is to deliver: each task has one outcome, and is run once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshwright.errors import ToolFailed
from tests.contract.crew import Hire, Shift
from tests.contract.scripts import delegates, one_step, three_steps
from tests.contract.stands import LOSSY, Stand


@pytest.fixture(params=list(LOSSY))
async def stand(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> AsyncIterator[Stand]:
    sort, number = LOSSY[request.param]
    stand = sort(tmp_path, seed + number)
    yield stand
    await stand.close()


async def test_every_task_gets_one_outcome_and_every_step_is_done_once(hire: Hire) -> None:
    crew = await hire(three_steps)
    names = [f"t{n}" for n in range(20)]
    await asyncio.gather(*[crew.submit(name, thread_id=f"thread{n % 5}") for n, name in enumerate(names)])
    for name in names:
        assert (await crew.outcome(name)).success
    assert crew.events("task.redriven")
    assert Counter(event.task_id for event in crew.finals()) == Counter(names)
    assert Counter(event.task_id for event in crew.events("attempt.ended")) == Counter(names)
    assert Counter(crew.begun) == Counter(f"{name} {step}" for name in names for step in STEPS)


STEPS = ("first", "second", "third")


async def test_delegated_tasks_come_back(hire: Hire) -> None:
    crew = await hire(delegates)
    names = [f"parent{n}" for n in range(8)]
    for name in names:
        await crew.submit(name)
    for name in names:
        assert (await crew.outcome(name)).text.startswith("succeeded: work by")
    await crew.until(lambda: len(crew.finals()) == 2 * len(names))
    assert max(Counter(crew.begun).values()) == 1


async def test_a_failed_attempt_is_made_again_by_another_agent(hire: Hire) -> None:
    async def fails_at_first(shift: Shift) -> str:
        if shift.work.dispatch.attempt < 3:
            raise ToolFailed("not today")
        return await shift.do("work")

    crew = await hire(fails_at_first, agents=("helper", "other", "third"))
    names = [f"t{n}" for n in range(8)]
    for name in names:
        await crew.submit(name)
    for name in names:
        assert (await crew.outcome(name)).attempt == 3
    assert len(crew.events("attempt.failed")) == 2 * len(names)


async def test_what_is_cancelled_ends_as_cancelled_wherever_it_is_on_its_road(hire: Hire) -> None:
    crew = await hire(one_step, slots=1)
    names = [f"t{n}" for n in range(8)]
    for n, name in enumerate(names):
        crew.hold(f"{name} work")
        await crew.submit(name, thread_id=f"thread{n % 2}")
    for name in names:
        await crew.cancel(name)
    for name in names:
        assert (await crew.outcome(name)).status == "cancelled"


async def test_what_was_lost_before_a_crash_comes_after_it(hire: Hire) -> None:
    crew = await hire(one_step)
    names = [f"t{n}" for n in range(10)]
    for name in names:
        await crew.submit(name)
        await crew.crash()
    for name in names:
        assert (await crew.outcome(name)).success

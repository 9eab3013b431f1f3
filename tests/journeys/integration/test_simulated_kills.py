"""A mesh that is killed during long work against a provider: all is done, and no finished step twice."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.running_mesh import mesh_up
from tests.support.simulated_mesh import SimulatedMesh, step_counts
from tests.support.simulator.scenario import Scenario, Weather, load_scenarios
from tests.support.simulator.server import Simulator

CALM = replace(load_scenarios()["kills"], tasks=6, steps=40, seconds=0.02)
ROUGH = replace(CALM, steps=20, weather=(Weather("outage", start=2, end=4),))
ANSWERS = 30  # between two kills


@pytest.mark.parametrize(("scenario", "kills"), [(CALM, 4), (ROUGH, 2)], ids=["calm", "outage"])
async def test_kills_repeat_no_finished_step_and_lose_no_task_and_no_cent(
    scenario: Scenario, kills: int, tmp_path: Path
) -> None:
    async with Simulator(scenario) as simulator:
        work = SimulatedMesh(simulator, tmp_path)
        for kill in range(1, kills + 1):
            async with mesh_up(work.data, **work.environment) as running:
                await work.submit(running)
                await work.answered(kill * ANSWERS)
                await running.kill()
        async with mesh_up(work.data, **work.environment) as running:
            outcomes = await work.outcomes(running)
            steps = await step_counts(running)
            accounts = await work.accounts(running, outcomes)
            calls = await running.client.events(event_type="model.called", limit=1000)
    score = work.score()
    assert (score.done, score.wrong, score.failed) == (scenario.tasks, 0, 0), score.reasons
    assert set(steps.values()) == {1}, "a finished step was made again"
    assert work.repeated_answers <= kills * scenario.tasks
    assert score.repeated <= kills * scenario.tasks
    assert accounts.outcomes == accounts.ledger == accounts.budget > 0
    assert accounts.reserved == 0, "a call that has ended stays reserved"
    assert accounts.ledger - accounts.estimated == accounts.provider, "what was answered is counted"
    ledger = simulator.ledger
    cut = sum(call.payload["outcome"] == "cut" for call in calls)
    unbilled = cut - work.repeated_answers  # cut off before they were billed, or before they were sent
    least = ledger.dollars * 19 / 20
    most = ledger.dollars * 21 / 20 + unbilled * max(charge.dollars for charge in ledger.charges)
    most += work.cache_savings  # a call that was cut off may count as if no cache had its prompt
    assert least <= accounts.budget <= most, "what a kill cut off counts too, about"

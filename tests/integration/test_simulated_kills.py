"""A mesh that is killed during long work against a provider: all is done, and no finished step twice."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.running_mesh import mesh_up
from tests.support.simulated_mesh import SimulatedMesh, step_counts
from tests.support.simulator.scenario import load_scenarios
from tests.support.simulator.server import Simulator

pytestmark = pytest.mark.timeout(120)
SCENARIO = replace(load_scenarios()["kills"], tasks=6, steps=40, seconds=0.02)
KILLS = 4
ANSWERS = 40  # between two kills


async def test_kills_repeat_no_finished_step_and_lose_no_task_and_no_cent(tmp_path: Path) -> None:
    async with Simulator(SCENARIO) as simulator:
        work = SimulatedMesh(simulator, tmp_path)
        for kill in range(1, KILLS + 1):
            async with mesh_up(work.data, **work.environment) as running:
                await work.submit(running)
                await work.answered(kill * ANSWERS)
                await running.kill()
        async with mesh_up(work.data, **work.environment) as running:
            outcomes = await work.outcomes(running)
            steps = await step_counts(running)
            accounts = await work.accounts(running, outcomes)
    score = work.score()
    assert (score.done, score.wrong, score.failed) == (SCENARIO.tasks, 0, 0), score.reasons
    assert set(steps.values()) == {1}, "a finished step was made again"
    assert 0 < work.repeated_answers <= KILLS * SCENARIO.tasks
    assert score.repeated <= KILLS * SCENARIO.tasks
    assert accounts.outcomes == accounts.ledger == accounts.provider > 0
    assert accounts.budget + accounts.reserved >= simulator.ledger.dollars, "what a kill cut off counts too"

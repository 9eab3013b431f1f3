"""A provider that is away from two workers on Dapr, of which one is killed meanwhile."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.journeys.integration.test_outages import AWAY, SOON, waiting_for_provider
from tests.journeys.integration.test_simulated_kills_dapr import UP, worker_of, works
from tests.run import DAPR
from tests.support.running_mesh import mesh_up
from tests.support.running_stack import gone, kill
from tests.support.simulated_mesh import SimulatedMesh, step_counts
from tests.support.simulator.scenario import Weather
from tests.support.simulator.server import Simulator

pytestmark = [
    pytest.mark.needs(*DAPR),
    pytest.mark.soak("the same on SQLite; test_simulated_kills_dapr.py kills workers in turn"),
]
SCENARIO = replace(AWAY, tasks=12, weather=(Weather("outage", start=0.5, end=10.0),))
MOST_REFUSED = 3 * SCENARIO.tasks + 20  # two workers, and one that comes back


async def test_an_outage_costs_no_task_though_a_worker_is_killed(tmp_path: Path) -> None:
    async with Simulator(SCENARIO) as simulator:
        work = SimulatedMesh(simulator, tmp_path)
        work.environment |= {f"MESH_MODELS__{name.upper()}": str(value) for name, value in SOON.items()}
        async with mesh_up(work.data, "--replicas", "2", up=UP, **work.environment) as running:
            await running.errors.until("logs: ")
            await work.submit(running)
            async with asyncio.timeout(240):
                while await waiting_for_provider(running) < SCENARIO.tasks // 3:
                    await asyncio.sleep(0.02)
            pid = worker_of(running, "--replica")
            kill(pid)
            await gone([pid])
            await works(running)
            outcomes = await work.outcomes(running)
            steps = await step_counts(running)
            accounts = await work.accounts(running, outcomes)
    score = work.score()
    assert (score.done, score.wrong, score.failed) == (SCENARIO.tasks, 0, 0), score.reasons
    assert score.repeated == 0
    assert accounts.outcomes == accounts.ledger > 0
    # Calls that the kill cut off while the provider was away are booked as estimated, and not billed.
    assert accounts.ledger - accounts.estimated <= accounts.provider <= accounts.ledger
    assert simulator.ledger.refused["outage"] <= MOST_REFUSED
    assert {count for (_, kind, _), count in steps.items() if kind == "tool.called"} == {1}

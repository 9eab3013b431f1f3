"""Fifty children of one run at once: answers in order, one of them failed, and a kill in the middle."""

import json
from pathlib import Path

from tests.support.running_mesh import mesh_up
from tests.support.simulated_mesh import SimulatedMesh
from tests.support.simulator.scenario import load_scenarios
from tests.support.simulator.server import Simulator

SCENARIO = load_scenarios()["children"]
REFUSED = "item-13"


async def test_results_of_49_children_are_kept_when_one_fails_and_the_mesh_is_killed(tmp_path: Path) -> None:
    async with Simulator(SCENARIO) as simulator:
        work = SimulatedMesh(simulator, tmp_path)
        async with mesh_up(work.data, **work.environment) as running:
            task_id = await running.submit("Do all.", agent_id="lead", capability="leading")
            await work.answered(2 * SCENARIO.tasks)
            await running.kill()
        answers_before = len(simulator.ledger.charges)
        async with mesh_up(work.data, **work.environment) as running:
            outcome = await running.client.outcome(task_id)
            tree = await running.client.costs()
    world = work.job.world()
    assert outcome.success, outcome.error
    assert json.loads((outcome.result or {})["text"]) == [
        None if item == REFUSED else world.expected(item) for item in work.job.items
    ]
    in_flight = SCENARIO.tasks
    needed = (SCENARIO.tasks - 1) * (SCENARIO.steps + 1) + 1
    assert answers_before < len(simulator.ledger.charges) <= needed + in_flight
    assert tree.total.cost_usd is not None

"""Schedules of a mesh on Dapr whose workers are killed in turn: each due time has one task."""

from pathlib import Path

import pytest

from tests.journeys.integration.test_simulated_kills_dapr import UP, worker_of, works
from tests.parts.integration.test_schedule_kills import EVERY_SECOND, finish, started
from tests.run import DAPR
from tests.support.running_mesh import mesh_up
from tests.support.running_stack import gone, kill

pytestmark = [
    pytest.mark.needs(*DAPR),
    pytest.mark.soak("the same on SQLite; contract/test_schedules.py crashes a mesh on Dapr"),
]
RUNS = 30
VICTIMS = ("--replica", "", "--replica")
"""By the argument that tells workers apart: the replica, then the front."""


async def test_killed_workers_submit_each_due_time_once(tmp_path: Path) -> None:
    async with mesh_up(tmp_path / "data", "--replicas", "2", up=UP) as running:
        await running.errors.until("logs: ")
        await running.call("PUT", "/schedules/tick", json={**EVERY_SECOND, "max_runs": RUNS})
        for victim in VICTIMS:
            await started(running, 2)
            pid = worker_of(running, victim)
            kill(pid)
            await gone([pid])
            await works(running)
        await finish(running, RUNS)

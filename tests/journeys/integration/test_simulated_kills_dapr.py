"""Two workers on Dapr that are killed in turn while they work for long against a provider."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.run import DAPR
from tests.support.running_mesh import MESH, RunningMesh, mesh_up
from tests.support.running_stack import children_of, gone, kill
from tests.support.simulated_mesh import SimulatedMesh, step_counts
from tests.support.simulator.scenario import load_scenarios
from tests.support.simulator.server import Simulator

pytestmark = pytest.mark.needs(*DAPR)
UP = [*MESH, "up", "--host", "dapr"]
SCENARIO = replace(load_scenarios()["kills"], tasks=6, steps=40, seconds=0.05)
VICTIMS = ("--replica", "", "--replica")
"""By the argument that tells workers apart: the replica, then the front."""
ANSWERS = 40  # between two kills
LOOK_SECONDS = 0.1


def worker_of(running: RunningMesh, argument: str) -> int:
    """The process of the replica, or of the front."""
    lines = {
        pid: Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        for pid in children_of(running.process.pid)
    }
    workers = {pid: line for pid, line in lines.items() if "worker" in line}
    [pid] = [pid for pid, line in workers.items() if ("--replica" in line) == bool(argument)]
    return pid


async def works(running: RunningMesh) -> None:
    """Wait until the front answers again."""
    while True:
        try:
            if (await running.get("/healthz")).status == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(LOOK_SECONDS)


async def test_kills_of_workers_repeat_no_finished_step_and_lose_no_task_and_no_cent(tmp_path: Path) -> None:
    async with Simulator(SCENARIO) as simulator:
        work = SimulatedMesh(simulator, tmp_path)
        async with mesh_up(work.data, "--replicas", "2", up=UP, **work.environment) as running:
            await running.errors.until("logs: ")
            await work.submit(running)
            for number, victim in enumerate(VICTIMS, 1):
                await work.answered(number * ANSWERS)
                pid = worker_of(running, victim)
                kill(pid)
                await gone([pid])
            await works(running)
            outcomes = await work.outcomes(running)
            steps = await step_counts(running)
            accounts = await work.accounts(running, outcomes)
    score = work.score()
    assert (score.done, score.wrong, score.failed) == (SCENARIO.tasks, 0, 0), score.reasons
    assert set(steps.values()) == {1}, "a finished step was made again"
    assert work.repeated_answers <= len(VICTIMS) * SCENARIO.tasks
    assert score.repeated <= len(VICTIMS) * SCENARIO.tasks
    assert accounts.outcomes == accounts.ledger >= accounts.provider > 0
    assert accounts.budget - accounts.estimated <= accounts.provider
    least = simulator.ledger.dollars * 19 / 20
    assert accounts.budget + accounts.reserved >= least, "what a kill cut off counts too, about"

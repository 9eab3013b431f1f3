"""A provider that is away: open tasks wait for it, and go on at the step where they were."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.running_mesh import RunningMesh, mesh_up
from tests.support.simulated_mesh import SimulatedMesh, step_counts
from tests.support.simulator.play import Wire, play
from tests.support.simulator.scenario import Scenario, Weather
from tests.support.simulator.server import Simulator

AWAY = Scenario(
    name="away",
    about="a provider that is away while every task is open",
    persona="poller",
    tasks=30,
    steps=4,
    seconds=0.2,
    weather=(Weather("outage", start=0.5, end=4.0),),
)
STORM = (
    Weather("rate-limit", start=0.5, end=3.0, share=0.7, status=429, retry_after=1),
    Weather("rate-limit", start=3.0, end=5.0, share=0.7, status=429),
)
SOON = {"park_seconds": 0.3, "max_park_seconds": 1.0}
MOST_REFUSED = 2 * AWAY.tasks + 20
"""The calls that were under way when the provider went, in each process, and what probes it."""


async def waiting_for_provider(running: RunningMesh) -> int:
    """How many tasks wait for their provider."""
    waits = (await running.get("/status")).body["waits"]
    return sum(wait["count"] for wait in waits if wait["kind"] == "provider")


@pytest.mark.parametrize(
    ("scenario", "wire"),
    [(AWAY, "openai"), (AWAY, "anthropic"), (replace(AWAY, name="storm", weather=STORM), "openai")],
    ids=["outage, openai", "outage, anthropic", "storm"],
)
async def test_an_outage_costs_no_task_and_repeats_no_step(
    tmp_path: Path, scenario: Scenario, wire: Wire
) -> None:
    score = await play(scenario, tmp_path, wire=wire, host="memory", models=SOON)
    assert (score.done, score.wrong, score.failed) == (scenario.tasks, 0, 0), score.reasons
    assert score.repeated == 0
    assert score.booked == score.billed > 0


async def test_runs_that_wait_outlive_a_kill_and_do_not_hammer_the_provider(tmp_path: Path) -> None:
    now = 0.0
    outage = (Weather("outage", start=1.0, end=2.0),)
    async with Simulator(replace(AWAY, weather=outage), clock=lambda: now) as simulator:
        work = SimulatedMesh(simulator, tmp_path)
        work.environment |= {f"MESH_MODELS__{name.upper()}": str(value) for name, value in SOON.items()}
        async with mesh_up(work.data, **work.environment) as running:
            await work.submit(running)
            await simulator.called.wait()
            now = 1.0  # away, until it is to come back
            async with asyncio.timeout(60):
                while await waiting_for_provider(running) < AWAY.tasks // 3:
                    await asyncio.sleep(0.02)
            await running.kill()
        async with mesh_up(work.data, **work.environment) as running:
            refused = simulator.ledger.refused["outage"]
            while simulator.ledger.refused["outage"] == refused:
                await asyncio.sleep(0.02)
            now = 2.0
            outcomes = await work.outcomes(running)
            steps = await step_counts(running)
            assert (await running.get("/status")).body["waits"] == []
            accounts = await work.accounts(running, outcomes)
    score = work.score()
    assert (score.done, score.wrong, score.failed) == (AWAY.tasks, 0, 0), score.reasons
    assert score.repeated == 0
    assert accounts.outcomes == accounts.ledger == accounts.provider > 0
    assert simulator.ledger.refused["outage"] <= MOST_REFUSED
    answers = [count for (_, kind, _), count in steps.items() if kind == "tool.called"]
    assert set(answers) == {1}, "a finished step was made again"

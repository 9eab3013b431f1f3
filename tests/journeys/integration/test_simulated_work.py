"""Agents that work for long against a provider as real ones are: the right result, each step once."""

from dataclasses import replace
from pathlib import Path

import pytest

from meshwright import Client
from meshwright.mesh.app import build_mesh
from tests.support.settings import load_settings
from tests.support.simulator.play import Wire, agent_of, play, write_project
from tests.support.simulator.scenario import Weather, load_scenarios
from tests.support.simulator.score import job_of, judge
from tests.support.simulator.server import Simulator

SCENARIOS = load_scenarios()
ATTEMPT_SECONDS = 5.0  # more than the work beside the waiting takes, on however busy a machine
DEFAULTS = {"max_steps": 500, "max_repeats": 25}


@pytest.mark.parametrize(
    ("name", "tasks", "wire"),
    [
        ("poll", 5, "openai"),
        ("poll", 5, "anthropic"),
        ("sloppy", 5, "openai"),
        ("sloppy", 5, "anthropic"),
        ("fix-tests", 1, "openai"),
        ("small-window", 1, "openai"),
        ("small-window", 1, "anthropic"),
    ],
)
async def test_work_gets_done_within_the_limits_of_the_settings(
    name: str, tasks: int, wire: Wire, tmp_path: Path
) -> None:
    scenario = replace(SCENARIOS[name], tasks=tasks)
    score = await play(scenario, tmp_path, wire=wire, store="memory", **DEFAULTS)
    assert (score.done, score.wrong, score.failed) == (tasks, 0, 0), score.reasons
    assert score.repeated == 0
    assert score.booked == score.billed > 0


async def test_work_takes_longer_than_its_steps_may(tmp_path: Path) -> None:
    scenario = SCENARIOS["slow"]
    score = await play(scenario, tmp_path, timeout=scenario.steps * scenario.seconds * 0.8)
    assert (score.done, score.wrong, score.failed) == (scenario.tasks, 0, 0), score.reasons
    assert score.repeated == 0


async def test_a_provider_that_never_answers_costs_no_attempt_and_no_step(tmp_path: Path) -> None:
    hangs = Weather("slow", seconds=3_600.0, tries=1)
    scenario = replace(SCENARIOS["poll"], tasks=1, steps=2, weather=(hangs,))
    async with Simulator(scenario) as simulator:
        job = job_of(scenario, str(tmp_path), simulator.url)
        folder, world, [item] = write_project(job), job.world(), job.items
        models = {"park_seconds": 0.1}
        settings = load_settings(folder, data_dir=folder / ".mesh", model="router", models=models)
        async with build_mesh(settings, project=folder, agents=[agent_of(world)]) as mesh:
            client = Client.local(mesh)
            before = await client.scores("work")
            outcome = await client.ask("simulated", job.request(item), timeout=ATTEMPT_SECONDS)
            waits = await client.events(event_type="task.waiting")
            failed = await client.events(event_type="attempt.failed")
            after = await client.scores("work")
        world.close()
    assert outcome.success, outcome.error
    assert len(waits) == simulator.ledger.calls - len(waits) == 3
    assert {event.payload["kind"] for event in waits} == {"provider"}
    assert (failed, [card.success for card in after]) == ([], [card.success for card in before])
    job.write(item, outcome.text, None)
    score = judge(scenario, job, simulator.ledger)
    assert (score.done, score.repeated, outcome.attempt) == (1, 0, 1)

"""A provider that is away: open tasks wait for it, and go on at the step where they were."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_mesh import RunningMesh, mesh, mesh_up
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


def refusing(status: int, end: float = 4.0) -> Scenario:
    """A provider that refuses every key, its credit or its model, while every task is open."""
    weather = (Weather("refused-key", start=0.5, end=end, status=status),)
    return replace(AWAY, name=f"refused-{status}", weather=weather)


DEPLOYMENT = "default/openai/simulated"


async def waiting_for_provider(running: RunningMesh) -> int:
    """How many tasks wait for their provider."""
    waits = (await running.get("/status")).body["waits"]
    return sum(wait["count"] for wait in waits if wait["kind"] == "provider")


async def waiting_for_model(running: RunningMesh) -> dict[str, int]:
    """How many tasks wait for each deployment, as the figures have it."""
    models = (await running.get("/figures")).body["models"]
    return {model["deployment"]: model["waiting"] for model in models}


async def all_wait(running: RunningMesh) -> None:
    """Return once every task waits for its provider, and the inbox says why."""
    async with asyncio.timeout(240):
        while await waiting_for_provider(running) < AWAY.tasks or not await inbox_of(running):
            await asyncio.sleep(0.02)


async def inbox_of(running: RunningMesh) -> list[Any]:
    return list((await running.get("/inbox")).body["items"])


@pytest.mark.parametrize(
    ("scenario", "wire"),
    [
        (AWAY, "openai"),
        (AWAY, "anthropic"),
        (replace(AWAY, name="storm", weather=STORM), "openai"),
        (refusing(401), "openai"),
        (refusing(402), "anthropic"),
        (refusing(403), "openai"),
        (refusing(404), "openai"),
    ],
    ids=["outage, openai", "outage, anthropic", "storm", "401", "402, anthropic", "403", "404"],
)
async def test_an_outage_costs_no_task_and_repeats_no_step(
    tmp_path: Path, scenario: Scenario, wire: Wire
) -> None:
    score = await play(scenario, tmp_path, wire=wire, store="memory", models=SOON)
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
            async with asyncio.timeout(240):
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
    assert accounts.outcomes == accounts.ledger > 0
    # Calls that the kill cut off while the provider was away are booked as estimated, and not billed.
    assert accounts.ledger - accounts.estimated <= accounts.provider <= accounts.ledger
    assert simulator.ledger.refused["outage"] <= MOST_REFUSED
    answers = [count for (_, kind, _), count in steps.items() if kind == "tool.called"]
    assert set(answers) == {1}, "a finished step was made again"


async def test_doctor_says_which_provider_is_away_and_when_it_is_tried_again(tmp_path: Path) -> None:
    now = 0.0
    async with Simulator(replace(AWAY, tasks=3), clock=lambda: now) as simulator:
        work = SimulatedMesh(simulator, tmp_path)
        work.environment |= {"MESH_MODELS__PARK_SECONDS": "600", "MESH_MODELS__MAX_PARK_SECONDS": "600"}
        async with mesh_up(work.data, **work.environment) as running:
            await work.submit(running)
            await simulator.called.wait()
            now = 1.0
            async with asyncio.timeout(240):
                while not await waiting_for_provider(running):
                    await asyncio.sleep(0.02)
            doctor = await mesh("doctor", "--data", str(work.data))
            failed = [line for line in doctor.out.splitlines() if line.startswith("FAIL  models ")]
            assert doctor.status == 1 and len(failed) == 1, doctor.out
            assert re.search(r"next try (in|at the next call)", failed[0])  # the latter: the machine was slow
            assert "server_error" in failed[0]
            await running.kill()


async def test_a_refused_key_is_one_inbox_item_and_a_test_that_succeeds_lets_tasks_go_on(
    tmp_path: Path,
) -> None:
    now = 0.0
    async with Simulator(refusing(401, end=2.0), clock=lambda: now) as simulator:
        work = SimulatedMesh(simulator, tmp_path)
        work.environment |= {"MESH_MODELS__PARK_SECONDS": "600", "MESH_MODELS__MAX_PARK_SECONDS": "600"}
        async with mesh_up(work.data, **work.environment) as running:
            await work.submit(running)
            await simulator.called.wait()
            now = 1.0  # refused, until the key is mended
            await all_wait(running)
            for model in ("default", DEPLOYMENT):
                assert len(await running.client.tasks(waits_for_model=model, limit=500)) == AWAY.tasks
            assert await waiting_for_model(running) == {DEPLOYMENT: AWAY.tasks}
            [item] = await inbox_of(running)
            assert item["subject"] == {"kind": "deployment", "deployment": DEPLOYMENT, "status": 401}
            assert f"{simulator.url} answered 401" in item["question"] and item["task_id"] == ""
            [failed] = await running.client.test_deployments()
            assert not failed["ok"] and await inbox_of(running)
            doctor = await mesh("doctor", "--data", str(work.data))
            assert f"FAIL  models      {DEPLOYMENT} is refused with 401" in doctor.out
            await running.kill()
        async with mesh_up(work.data, **work.environment) as running:
            refused = simulator.ledger.refused["refused-key"]
            while simulator.ledger.refused["refused-key"] == refused:  # it starts with another try
                await asyncio.sleep(0.02)
            await all_wait(running)
            [again] = await inbox_of(running)
            assert again["id"] == item["id"]
            now = 2.0
            [tested] = await running.client.test_deployments()
            assert tested["ok"]
            assert await inbox_of(running) == []
            outcomes = await work.outcomes(running)
            accounts = await work.accounts(running, outcomes)
    score = work.score()
    assert (score.done, score.wrong, score.failed) == (AWAY.tasks, 0, 0), score.reasons
    assert score.repeated == 0
    assert accounts.outcomes == accounts.ledger > 0
    assert simulator.ledger.refused["refused-key"] <= MOST_REFUSED

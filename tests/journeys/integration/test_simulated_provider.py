"""Long work against a provider that behaves as real ones do: what can be done is done, and paid for once."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from meshwright import Client
from meshwright.mesh.app import build_mesh
from tests.support.settings import load_settings
from tests.support.simulator.play import Wire, agent_of, play, write_project
from tests.support.simulator.scenario import Weather, load_scenarios
from tests.support.simulator.score import job_of
from tests.support.simulator.server import Simulator

SCENARIOS = load_scenarios()


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [("cut-off", {}), ("thinking", {"steps": 30}), ("release", {"steps": 100, "tasks": 1})],
)
async def test_all_tasks_of_a_scenario_are_done(
    name: str, changes: dict[str, int], wire: Wire, tmp_path: Path
) -> None:
    scenario = replace(SCENARIOS[name], **changes)
    score = await play(scenario, tmp_path, wire=wire)
    assert (score.done, score.wrong, score.failed) == (scenario.tasks, 0, 0), score.reasons
    assert score.repeated == 0
    assert score.booked == score.billed > 0


@pytest.mark.parametrize(
    ("name", "speed"), [("outage", 10.0), ("storm", 5.0), ("overload", 10.0), ("dying-streams", 5.0)]
)
async def test_a_provider_in_trouble_costs_no_task_and_no_step(
    name: str, speed: float, tmp_path: Path
) -> None:
    scenario = SCENARIOS[name]
    score = await play(scenario, tmp_path, speed=speed)
    assert (score.done, score.wrong, score.failed) == (scenario.tasks, 0, 0), score.reasons
    assert score.repeated == 0
    assert score.booked is not None
    assert score.booked >= score.billed > 0, "what a dying stream cost is an estimate"


HELD_BACK = Weather("refusal", share=0.5, tries=1)
BUSY = Weather("rate-limit", share=0.4, status=429, retry_after=0.1, tries=2)
ABSURD = Weather("absurd-usage", share=0.5)
CENT = Decimal("0.01")


@pytest.mark.parametrize(
    ("name", "weather", "wire"),
    [
        ("poll", [Weather("empty", share=0.15, tries=1)], "openai"),
        ("cut-off", [Weather("cut-off", share=0.7, tries=1)], "anthropic"),
        ("poll", [HELD_BACK], "openai"),
        ("poll", [HELD_BACK, BUSY], "openai"),
        ("poll", [HELD_BACK, BUSY], "anthropic"),
        ("research", [Weather("dying-streams", share=0.3, tries=2)], "openai"),
        ("research", [BUSY], "openai"),
        ("poll", [ABSURD], "openai"),
        ("poll", [ABSURD], "anthropic"),
    ],
    ids=[
        *("empty", "cut off", "held back", "held back, 429", "anthropic", "broken streams", "429"),
        *("absurd usage", "absurd usage, anthropic"),
    ],
)
async def test_budget_ledger_and_provider_agree(
    name: str, weather: list[Weather], wire: Wire, tmp_path: Path
) -> None:
    scenario = replace(SCENARIOS[name], tasks=5, steps=5, weather=tuple(weather))
    async with Simulator(scenario) as simulator:
        job = job_of(scenario, str(tmp_path), simulator.url, wire)
        config = write_project(job) / "litellm_config.yaml"
        group = config.read_text().removeprefix("model_list:\n").replace("_name: default", "_name: second")
        fallbacks = "router_settings:\n  content_policy_fallbacks: [{default: [second]}]\n"
        config.write_text(config.read_text() + group + fallbacks)
        budget = {"name": "all", "limit_usd": "100"}
        models = {"adapter": "router", "park_seconds": 1.0}
        settings = load_settings(tmp_path, models=models, max_repeats=1000, budgets=[budget])
        world = job.world()
        async with build_mesh(settings, project=tmp_path, agents=[agent_of(world)]) as mesh:
            client = Client.local(mesh)
            outcomes = await asyncio.gather(
                *[client.ask("simulated", job.request(item), timeout=90) for item in job.items]
            )
            ledger = (await client.costs()).total
            [view] = await client.budgets()
        world.close()
    assert all(outcome.success for outcome in outcomes), [outcome.error for outcome in outcomes]
    booked = sum(outcome.cost_usd or 0 for outcome in outcomes)
    assert view.reserved_usd == 0
    assert booked == ledger.cost_usd == view.spent_usd
    assert ledger.estimated_usd == view.estimated_usd
    if weather[0].kind == "dying-streams":  # what one cost is an estimate
        assert abs(booked - simulator.ledger.dollars) < CENT
    elif weather[0] is ABSURD:
        assert abs(booked - simulator.ledger.dollars) < simulator.ledger.dollars / 2
        assert 0 < view.estimated_usd < booked
    else:
        assert (booked, view.estimated_usd) == (simulator.ledger.dollars, 0)

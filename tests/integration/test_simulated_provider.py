"""Long work against a provider that behaves as real ones do: what can be done is done, and paid for once."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.simulator.play import Wire, play
from tests.support.simulator.scenario import load_scenarios

pytestmark = pytest.mark.timeout(100)
SCENARIOS = load_scenarios()


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("poll", {}),
        ("cut-off", {}),
        ("sloppy", {}),
        ("thinking", {"steps": 30}),
        ("release", {"steps": 100, "tasks": 1}),
        ("small-window", {"tasks": 1}),
    ],
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

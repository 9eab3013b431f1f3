"""Agents that work for long against a provider as real ones are: the right result, each step once."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.simulator.play import Wire, play
from tests.support.simulator.scenario import load_scenarios

SCENARIOS = load_scenarios()
DEFAULTS = {"max_steps": 500, "max_repeats": 25}


@pytest.mark.parametrize(
    ("name", "tasks", "wire"),
    [
        ("poll", 5, "openai"),
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
    score = await play(scenario, tmp_path, wire=wire, host="memory", **DEFAULTS)
    assert (score.done, score.wrong, score.failed) == (tasks, 0, 0), score.reasons
    assert score.repeated == 0
    assert score.booked == score.billed > 0

"""Walks at random: agents that are killed, cancelled, retried, forked and answered late break no promise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import DEFAULT_SEED
from tests.run import ROOT
from tests.support.walker.open_findings import OPEN_FINDINGS

WALKS = 36
MORE = pytest.mark.soak("more walks of the same kind")
PARTS = [0, 1, *(pytest.param(part, marks=MORE) for part in range(2, 6))]


@pytest.mark.far("72 random walks take 10 s")
@pytest.mark.parametrize("part", PARTS)
def test_walks_break_no_promise(seed: int, part: int) -> None:
    first = (0 if seed == DEFAULT_SEED else seed * 1000) + part * WALKS
    exceptions = [f"--except={kind}" for kind in OPEN_FINDINGS]
    seeds = f"--seeds={first}..{first + WALKS}"
    command = [sys.executable, "-m", "tests.support.walker", seeds, *exceptions]
    walked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert walked.returncode == 0, walked.stdout + walked.stderr


@pytest.mark.parametrize(
    "seed", [40001926, 40002024, 40003036, 40007619, 60005095, 40000256, 50009507, 70019668]
)
def test_a_walk_that_broke_a_promise_keeps_it(seed: int) -> None:
    command = [sys.executable, "-m", "tests.support.walker", f"--seed={seed}", "--tries=0"]
    walked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert walked.returncode == 0, walked.stdout + walked.stderr

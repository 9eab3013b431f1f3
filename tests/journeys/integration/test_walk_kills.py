"""Walks of a few programs on each store, whose processes are killed: they break no promise there either."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import DEFAULT_SEED
from tests.support.killed_mesh import KilledMesh, killed_mesh
from tests.support.walker.history import Plan
from tests.support.walker.open_findings import OPEN_FINDINGS
from tests.support.walker.oracle import findings_of
from tests.support.walker.process import walk_on
from tests.support.walker.report import script_of

__all__ = ["killed_mesh"]
MORE = pytest.mark.soak("one walk through kills shows a change, more take long")


@pytest.mark.parametrize("number", [18, *(pytest.param(number, marks=MORE) for number in (41, 52))])
async def test_walks_through_kills_break_no_promise(
    number: int, seed: int, tmp_path: Path, killed_mesh: Callable[[dict[str, str]], KilledMesh]
) -> None:
    plan = Plan.of(number if seed == DEFAULT_SEED else seed * 1000 + number)
    history = await walk_on(plan, tmp_path, killed_mesh)
    findings = [finding for finding in findings_of(history) if not finding.kind.startswith(OPEN_FINDINGS)]
    assert not findings, "\n\n".join(script_of(history, finding) for finding in findings)
    assert history.world.incarnation > 1 or seed != DEFAULT_SEED, "nothing was killed"

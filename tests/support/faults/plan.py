"""A small plan with tasks of every shape, and the judgement of what runs of it have left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from meshwright.parts.proving.oracle import Evidence, complaints
from meshwright.parts.proving.workload import PlannedTask
from tests.support.faults.evidence import gather

PLAN = [
    PlannedTask("plain 1", "clerk"),
    PlannedTask("find 2", "finder"),
    PlannedTask("ask 3", "manager"),
    PlannedTask("plain 4", "clerk", thread_id="shared"),
    PlannedTask("plain 5", "clerk", thread_id="shared"),
    PlannedTask("hang 6", "clerk", cancel=True),
    PlannedTask("find 7", "finder", thread_id="found"),
    PlannedTask("ask 8", "manager", thread_id="asked"),
    PlannedTask("ask 9", "manager", thread_id="asked"),
]
"""A few tasks of every shape: their passages of each point are the same in every run that is not killed."""


def judge(folder: Path, *, kills: int, plan: Sequence[PlannedTask] = PLAN) -> Evidence:
    """Ask the oracle; it must have nothing to complain of, and every task must be accepted and told of."""
    evidence = asyncio.run(gather(folder, kills=kills))
    found = complaints(evidence)
    assert found == [], found
    assert len(evidence.accepted) == len(evidence.reported) == len(plan)
    return evidence

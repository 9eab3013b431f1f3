"""A small plan with tasks of every shape, and the judgement of what runs of it have left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tests.support.faults.evidence import gather
from tests.support.faults.node import Item
from tests.support.faults.oracle import Evidence, complaints

PLAN = [
    Item("plain 1", "clerk"),
    Item("find 2", "finder"),
    Item("ask 3", "manager"),
    Item("plain 4", "clerk", thread_id="shared"),
    Item("plain 5", "clerk", thread_id="shared"),
    Item("hang 6", "clerk", cancel=True),
    Item("find 7", "finder", thread_id="found"),
    Item("ask 8", "manager", thread_id="asked"),
    Item("ask 9", "manager", thread_id="asked"),
]
"""A few tasks of every shape: their passages of each point are the same in every run that is not killed."""


def judge(folder: Path, *, kills: int, plan: Sequence[Item] = PLAN) -> Evidence:
    """Ask the oracle; it must have nothing to complain of, and every task must be accepted and told of."""
    evidence = asyncio.run(gather(folder, kills=kills))
    found = complaints(evidence)
    assert found == [], found
    assert len(evidence.accepted) == len(evidence.told) == len(plan)
    return evidence

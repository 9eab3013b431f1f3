"""A step of a long run costs no more than one of its first."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import ClassVar

import pytest

import meshwright
from meshwright import Agent, Capability, Limits, tool
from meshwright.models.port import Model
from meshwright.models.written import WrittenMessages
from meshwright.testing import mesh_for
from tests.support.fake_provider import FakeProvider, tool_call
from tests.support.function_calls import FunctionCalls
from tests.support.model_adapters import anthropic, http, router

STEPS = 100
FEW, MANY = slice(9, 19), slice(STEPS - 12, STEPS - 2)


class Looker(Agent):
    """Looks at one number after another."""

    agent_id = "looker"
    capabilities = (Capability("looking"),)
    prompt_text = "Look at all numbers."
    limits = Limits(max_steps=STEPS + 10)

    counted: ClassVar[list[int]]
    calls: ClassVar[FunctionCalls]

    @tool(idempotent=True)
    async def look(self, number: int) -> str:
        """Look at a number."""
        self.counted.append(self.calls.count)
        return f"number {number} is fine"


@pytest.mark.parametrize(
    ("adapter", "budget_usd"), [(http, None), (router, None), (anthropic, None), (anthropic, Decimal(5))]
)
async def test_a_late_step_takes_as_many_calls_of_functions_as_an_early_one(
    adapter: Callable[[FakeProvider, Path], Model], budget_usd: Decimal | None, tmp_path: Path
) -> None:
    before = kept_messages()
    replies = [tool_call("look", f'{{"number": {n}}}', f"call_{n}") for n in range(STEPS)]
    fake = FakeProvider(replies=deque([*replies, {"content": "Done."}]))
    counted, calls = list[int](), FunctionCalls(meshwright)
    looker = type("Looker", (Looker,), {"counted": counted, "calls": calls})
    async with fake, mesh_for(looker, model=adapter(fake, tmp_path)) as mesh:
        with calls:
            outcome = await mesh.ask("looker", "Begin.", budget_usd=budget_usd)
    assert outcome.text == "Done."
    steps = [after - before for before, after in pairwise(counted)]
    few, many = median(steps[FEW]), median(steps[MANY])
    assert many <= 1.05 * few, (few, many)
    assert len(fake.calls[-1].body["messages"]) >= 2 * STEPS
    assert all(any(kept is other for other in before) for kept in kept_messages())


def kept_messages() -> list[WrittenMessages]:
    """Those in memory: errors of tests that ran before may hold some."""
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, WrittenMessages)]

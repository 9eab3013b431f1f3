"""A mesh as a process that works on a scenario of a simulated provider, and is killed meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from meshwright.core.messages import Outcome
from tests.support.running_mesh import ROOT, RunningMesh, all_of
from tests.support.simulator.job import Job
from tests.support.simulator.ledger import Charge
from tests.support.simulator.play import write_project
from tests.support.simulator.score import Score, job_of, judge
from tests.support.simulator.server import Simulator

_LOOK_SECONDS = 0.02
_IDLE_SECONDS = 5.0  # to book the last calls
_BUDGET = '[{"name": "all", "limit_usd": "100"}]'


@dataclass(frozen=True)
class Accounts:
    outcomes: Decimal
    ledger: Decimal
    budget: Decimal
    estimated: Decimal
    reserved: Decimal
    provider: Decimal
    """The provider's bill, without the answers that a kill kept from being journaled."""


class SimulatedMesh:
    """The work on the simulator's scenario, with all files in a folder."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        self.simulator = simulator
        self.job: Job = job_of(simulator.scenario, str(folder), simulator.url)
        self.data = folder / "data"
        write_project(self.job, actor=True)
        self.environment = {
            "MESH_AGENTS__DIR": str(folder / "actors"),
            "MESH_PROMPTS__DIR": str(folder / "prompts"),
            "MESH_MODELS__CONFIG": str(folder / "litellm_config.yaml"),
            "MESH_MODELS__ADAPTER": "router",
            "MESH_AGENTS__MAX_STEPS": str(self.job.max_steps),
            "MESH_AGENTS__MAX_REPEATS": "1000",
            "MESH_LEDGER__BUDGETS": _BUDGET,
            "PYTHONPATH": str(ROOT),
        }

    async def submit(self, running: RunningMesh) -> list[str]:
        """Submit a task an item, each the same task as before where it was submitted already."""
        receipts = [
            running.client.submit("simulated", self.job.request(item), idempotency_key=item)
            for item in self.job.items
        ]
        return [receipt.task_id for receipt in await all_of(list(receipts))]

    async def answered(self, count: int) -> None:
        """Wait until the provider has given so many answers."""
        while len(self.simulator.ledger.charges) < count:
            await asyncio.sleep(_LOOK_SECONDS)

    async def outcomes(self, running: RunningMesh) -> list[Outcome]:
        """Wait for the outcomes, and write them down for `score`."""
        outcomes = await all_of([running.client.outcome(task_id) for task_id in await self.submit(running)])
        for item, outcome in zip(self.job.items, outcomes, strict=True):
            text = (outcome.result or {}).get("text") if outcome.success else None
            self.job.write(item, text, None if outcome.success else str(outcome.error))
        return outcomes

    def score(self) -> Score:
        return judge(self.simulator.scenario, self.job, self.simulator.ledger)

    async def accounts(self, running: RunningMesh, outcomes: Sequence[Outcome]) -> Accounts:
        [budget] = await running.client.budgets()
        with suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_SECONDS):
                while budget.reserved_usd:
                    await asyncio.sleep(_LOOK_SECONDS)
                    [budget] = await running.client.budgets()
        costs = await running.client.costs()
        ledger = self.simulator.ledger
        return Accounts(
            outcomes=sum((outcome.cost_usd or Decimal(0) for outcome in outcomes), Decimal(0)),
            ledger=costs.total.cost_usd or Decimal(0),
            budget=budget.spent_usd,
            estimated=budget.estimated_usd,
            reserved=budget.reserved_usd,
            provider=ledger.dollars - ledger.wasted(self.job.items),
        )

    @property
    def repeated_answers(self) -> int:
        """How many whole answers the provider was asked for again."""
        return len(self.simulator.ledger.charges) - len(_requests(self.simulator.ledger.charges))

    @property
    def cache_savings(self) -> Decimal:
        """What the provider's cache saved in answers that were asked for again, before the last of each."""
        charges, prices = self.simulator.ledger.charges, self.simulator.scenario.prices
        last = {charge.request: number for number, charge in enumerate(charges)}
        tokens = sum(
            charge.cached_tokens for number, charge in enumerate(charges) if last[charge.request] != number
        )
        return tokens * (prices.input - prices.cached) / 1_000_000


def _requests(charges: Sequence[Charge]) -> set[str]:
    return {charge.request for charge in charges}


async def step_counts(running: RunningMesh) -> Counter[tuple[str | None, str, int]]:
    """How often each step of each task was journaled: once each, whatever was killed."""
    steps: Counter[tuple[str | None, str, int]] = Counter()
    for task in (await running.get("/tasks", limit=100)).body["items"]:
        for event in await running.story(task["task_id"]):
            if event["event_type"] == "tool.called" or event["payload"].get("outcome") == "ok":
                steps[event["task_id"], event["event_type"], event["payload"]["step"]] += 1
    return steps

"""Trees of tasks on one purse, in a mesh that is killed: never more is spent than there is, and all end.

`PURSE_TREES`, `PURSE_WIDTH` and `PURSE_KILLS` make it larger. The provider's bill has every call that
reached it, also those that a kill cut off.
"""

import asyncio
import os
from decimal import Decimal
from pathlib import Path

import pytest

from meshwright.core.messages import Outcome
from tests.support.fake_provider import FakeProvider
from tests.support.running_mesh import RunningMesh, all_of, mesh, mesh_up

TREES = int(os.environ.get("PURSE_TREES", "6"))
WIDTH = int(os.environ.get("PURSE_WIDTH", "5"))
KILLS = int(os.environ.get("PURSE_KILLS", "3"))
TASKS = TREES * (1 + 2 * WIDTH)
pytestmark = pytest.mark.timeout(600 + TASKS // 20)
EARNED = Decimal("0.011")  # by the provider, for each call
COST = TASKS * EARNED
PURSE = COST * 3 / 4
USAGE = {"prompt_tokens": 100, "completion_tokens": 500, "total_tokens": 600}
CALLS = 4  # between two kills
SLOTS = 9  # of all agents: as many calls can a kill cut
LOOK_SECONDS = 0.05
AGENTS = f'''
"""Three levels of agents: each asks its model once, and the upper ones delegate."""

from meshwright import Agent, Capability, Run


class Leaf(Agent):
    """Asks once."""

    agent_id = "leaf"
    capabilities = (Capability("leaves"),)
    max_concurrency = 3

    async def run(self, run: Run) -> str:
        return await run.ask(run.task.text)


class Branch(Leaf):
    """Asks once, then another."""

    agent_id = "branch"
    capabilities = (Capability("branches"),)
    delegates_to = ("leaf",)

    async def run(self, run: Run) -> str:
        await run.ask(run.task.text)
        return await run.delegate("leaf", run.task.text)


class Root(Leaf):
    """Asks once, then many."""

    agent_id = "root"
    capabilities = (Capability("roots"),)
    delegates_to = ("branch", "leaf")

    async def run(self, run: Run) -> str:
        await run.ask(run.task.text)
        given = [run.delegate("branch", f"{{run.task.text}} {{number}}") for number in range({WIDTH})]
        return str(len(await run.gather(*given)))
'''


def environment_of(folder: Path, provider: FakeProvider, purse_usd: Decimal) -> dict[str, str]:
    return {
        "MESH_AGENTS__TIMEOUT_SECONDS": "5",  # a cut call is held ten seconds longer
        "MESH_MODELS__MAX_PARK_SECONDS": "2",
        "MESH_AGENTS__DIR": str(folder / "actors"),
        "MESH_MODELS__ADAPTER": "http",
        "MESH_MODELS__BASE_URL": provider.url,
        "MESH_LEDGER__DEFAULT_PRICE": '{"input": "10", "output": "20"}',
        "MESH_LEDGER__BUDGETS": f'[{{"name": "purse", "limit_usd": "{purse_usd}", "on_empty": "ask"}}]',
    }


async def submitted(running: RunningMesh) -> list[str]:
    """A task a tree, each the same as before where it was submitted already."""
    tasks = [
        running.client.submit("root", f"Tree {number}.", idempotency_key=f"tree-{number}")
        for number in range(TREES)
    ]
    return [receipt.task_id for receipt in await all_of(tasks)]


async def is_parked(running: RunningMesh) -> bool:
    """Whether there are tasks, and all of them wait."""
    return (await running.client.status()).tasks.keys() == {"waiting"}


async def purse(running: RunningMesh) -> tuple[Decimal, Decimal]:
    [view] = await running.client.budgets()
    return view.spent_usd, view.reserved_usd


async def test_no_more_is_spent_than_a_purse_has_and_all_end_once_it_is_filled(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "trees.py").write_text(AGENTS)
    data = tmp_path / "data"
    async with FakeProvider(usage=USAGE) as provider:
        environment = environment_of(tmp_path, provider, PURSE)
        for _ in range(KILLS):
            async with mesh_up(data, **environment) as running:
                enough = len(provider.calls) + CALLS
                await submitted(running)
                while len(provider.calls) < enough and not await is_parked(running):
                    await asyncio.sleep(LOOK_SECONDS)
                await running.kill()
        async with mesh_up(data, **environment) as running:
            task_ids = await submitted(running)
            while not await is_parked(running):
                await asyncio.sleep(LOOK_SECONDS)
            status = await running.client.status()
            spent, reserved = await purse(running)
            assert "money" in {wait.kind for wait in status.waits}
            assert reserved == 0
            assert len(provider.calls) * EARNED <= spent <= PURSE
            assert PURSE - spent < PURSE / 4
            raised = await mesh("budgets", "raise", "purse", str(COST), "--data", str(data))
            assert raised.status == 0, raised.err
            outcomes = await all_of([running.client.outcome(task_id) for task_id in task_ids])
            assert [outcome.text for outcome in outcomes] == [str(WIDTH)] * TREES
            spent, reserved = await purse(running)
            assert reserved == 0
            assert len(provider.calls) * EARNED <= spent <= PURSE + COST
            await accounts_agree(running, outcomes, len(provider.calls) * EARNED, PURSE + COST)
            ledger = (await running.client.costs()).total
            assert ledger.estimated_usd <= KILLS * SLOTS * EARNED, "more is estimated than kills can have cut"


async def accounts_agree(
    running: RunningMesh, outcomes: list[Outcome], billed: Decimal, purse_usd: Decimal
) -> None:
    """The accounts have each answer as it was billed, and hold what a kill cut off, sent or not."""
    spent, reserved = await purse(running)
    ledger = (await running.client.costs()).total
    of_outcomes = sum((outcome.cost_usd or Decimal(0) for outcome in outcomes), Decimal(0))
    print(f"provider {billed} ledger {ledger.cost_usd} (estimated {ledger.estimated_usd}) ", end="")
    print(f"outcomes {of_outcomes} purse {spent} of {purse_usd}, reserved {reserved}")
    assert reserved == 0
    assert spent == ledger.cost_usd == of_outcomes
    assert spent - ledger.estimated_usd <= billed <= spent <= purse_usd


SMALL = {"prompt_tokens": 20, "completion_tokens": 20, "total_tokens": 40}
EARNED_SMALL = Decimal("0.0006")
WIDE = int(os.environ.get("PURSE_WIDE", "200"))
WIDE_PURSE = Decimal("0.2")  # at their most ten calls


async def test_a_crash_under_a_purse_costs_what_the_provider_bills(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    wide = AGENTS.replace("max_concurrency = 3", "max_concurrency = 30").replace(
        f"range({WIDTH})", f"range({WIDE})"
    )
    (tmp_path / "actors" / "trees.py").write_text(wide.replace('delegate("branch"', 'delegate("leaf"'))
    async with FakeProvider(usage=SMALL, seconds=0.3) as provider:
        environment = environment_of(tmp_path, provider, WIDE_PURSE)
        for kill in range(KILLS):
            async with mesh_up(tmp_path / "data", **environment) as running:
                await running.client.submit("root", "Go.", idempotency_key="tree")
                enough, seen = WIDE * kill / KILLS + CALLS, 0
                while len(provider.calls) < enough or len(provider.calls) > seen:  # all sent ones are there
                    seen = len(provider.calls)
                    await asyncio.sleep(LOOK_SECONDS)
                await running.kill()
        async with mesh_up(tmp_path / "data", **environment) as running:
            receipt = await running.client.submit("root", "Go.", idempotency_key="tree")
            outcome = await running.client.outcome(receipt.task_id)
            assert outcome.text == str(WIDE)
            billed = len(provider.calls) * EARNED_SMALL
            await accounts_agree(running, [outcome], billed, WIDE_PURSE)
            spent, _ = await purse(running)
            assert abs(spent - billed) <= billed / 20

"""Trees of tasks on one purse, in a mesh that is killed: never more is spent than there is, and all end.

`PURSE_TREES`, `PURSE_WIDTH` and `PURSE_KILLS` make it larger.
"""

import asyncio
import os
from decimal import Decimal
from pathlib import Path

import pytest

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
    delegates_to = ("branch",)

    async def run(self, run: Run) -> str:
        await run.ask(run.task.text)
        given = [run.delegate("branch", f"{{run.task.text}} {{number}}") for number in range({WIDTH})]
        return str(len(await run.gather(*given)))
'''


async def submitted(running: RunningMesh) -> list[str]:
    """A task a tree, each the same as before where it was submitted already."""
    tasks = [
        running.client.submit(f"Tree {number}.", agent_id="root", idempotency_key=f"tree-{number}")
        for number in range(TREES)
    ]
    return [receipt.task_id for receipt in await all_of(tasks)]


async def is_parked(running: RunningMesh) -> bool:
    """Whether there are tasks, and all of them wait."""
    return (await running.client.status()).tasks.keys() == {"waiting"}


async def purse(running: RunningMesh) -> tuple[Decimal, Decimal]:
    """What is spent and reserved of it."""
    [view] = await running.client.budgets()
    return view.spent_usd, view.reserved_usd


async def test_no_more_is_spent_than_a_purse_has_and_all_end_once_it_is_filled(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "trees.py").write_text(AGENTS)
    data = tmp_path / "data"
    async with FakeProvider(usage=USAGE) as provider:
        environment = {
            "MESH_AGENTS__DIR": str(tmp_path / "actors"),
            "MESH_MODELS__ADAPTER": "http",
            "MESH_MODELS__BASE_URL": provider.url,
            "MESH_LEDGER__DEFAULT_PRICE": '{"input": "10", "output": "20"}',
            "MESH_LEDGER__BUDGETS": f'[{{"name": "purse", "limit_usd": "{PURSE}", "on_empty": "ask"}}]',
        }
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
            ledger = (await running.client.costs()).total
            assert ledger.cost_usd == TASKS * EARNED
            assert sum((outcome.cost_usd or Decimal(0)) for outcome in outcomes) == TASKS * EARNED

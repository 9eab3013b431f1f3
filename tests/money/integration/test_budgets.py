"""Budgets of a whole mesh: what a task is told when there is no room, and what people and programs see."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

from meshwright import Agent, Capability
from meshwright.core.access import Role
from meshwright.core.messages import Caller, Usage
from meshwright.edges.http.server import serving
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply
from meshwright.money.budgets import Budgets
from meshwright.money.costs import CostQuery
from meshwright.money.spending import Spending
from meshwright.parts.money.operations import MoneyOperations
from meshwright.testing import ScriptedModel
from tests.support.fake_provider import FakeProvider
from tests.support.running_mesh import Done, mesh
from tests.support.settings import load_settings

BUDGETS = [
    {"name": "all", "limit_usd": "0.04", "window": "total"},
    {"name": "each", "scope": "agent", "limit_usd": "1", "window": "day", "hard": False},
]
PRICE = {"input": 0, "output": 30}


class Clerk(Agent):
    """Answers what its model says."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)
    remembers = False


@asynccontextmanager
async def limited(folder: Path, *, budgets: Any = BUDGETS) -> AsyncIterator[Mesh]:
    """A mesh whose model costs 30 dollars a million tokens that it writes, and writes 500 a reply."""
    reply = ModelReply(content="Done.", model="big", usage=Usage(completion_tokens=500))
    settings = load_settings(folder, listen_port=0, budgets=budgets, default_price=PRICE)
    mesh = build_mesh(settings, project=folder, agents=[Clerk], model=ScriptedModel(*[reply] * 9))
    async with mesh:
        yield mesh


async def budgets(*arguments: str) -> Done:
    return await mesh("budgets", *arguments)


async def test_a_task_that_there_is_no_money_for_fails_and_says_so(tmp_path: Path) -> None:
    async with limited(tmp_path) as mesh:
        first = await mesh.get(Tasks).ask("clerk", "Do it.")
        second = await mesh.get(Tasks).ask("clerk", "Do it again.")
        costs = await mesh.get(Spending).costs(CostQuery("default"))
    assert (first.success, first.cost_usd) == (True, Decimal("0.015"))
    assert second.error is not None
    assert (second.success, second.error.type, second.cost_usd) == (False, "BudgetExceeded", 0)
    assert "Budget all of the mesh exceeded: $0.015 of $0.04 spent, $0.00 reserved" in second.error.message
    assert (costs.total.cost_usd, costs.total.calls, costs.total.failed) == (Decimal("0.015"), 1, 0)


async def test_budgets_are_the_same_over_http_and_on_the_command_line(tmp_path: Path) -> None:
    async with (
        limited(tmp_path) as mesh,
        serving(mesh, "127.0.0.1", 0) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        await mesh.get(Tasks).ask("clerk", "Do it.")
        await mesh.get(Budgets).settled()
        async with session.get("/budgets") as response:
            assert response.status == 200
            found = (await response.json())["items"]
        told = await budgets("--json", "--url", server.url)
        drawn = await budgets("--url", server.url)
    listed = json.loads(told.out)
    assert [bool(budget.pop("reached_at")) for budget in listed] == [
        True,
        False,
    ]  # by when: 2.5 cents are left
    assert listed == [{name: budget[name] for name in budget if name != "reached_at"} for budget in found]
    assert [(each["budget"], each["key"], each["spent_usd"], each["reserved_usd"]) for each in found] == [
        ("all", "mesh", "0.015", "0"),
        ("each", "clerk", "0.015", "0"),
    ]
    heads, everyone, clerk = [line.split() for line in drawn.out.splitlines()]
    assert " ".join(heads) == "budget of window limit known estimated reserved renews a day at the limit"
    assert everyone[:9] == ["all", "the", "mesh", "total", "$0.0400", "$0.0150", "$0", "$0", "never"]
    assert everyone[9] == "$0.0150"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:00", " ".join(everyone[10:]))
    assert clerk[:9] == ["each", "(soft)", "agent", "clerk", "day", "$1.0000", "$0.0150", "$0", "$0"]


async def test_a_tenant_sees_no_figures_that_count_other_tenants(tmp_path: Path) -> None:
    own = {"name": "ours", "scope": "tenant", "of": "acme", "limit_usd": "1"}
    async with limited(tmp_path, budgets=[*BUDGETS, own]) as mesh:
        await mesh.get(Tasks).ask("clerk", "Do it.")
        await mesh.get(Budgets).settled()

        async def seen(tenant_id: str, **fields: Any) -> list[str]:
            caller = Caller(tenant_id=tenant_id, roles=frozenset({Role.VIEWER}), **fields)
            return [view.budget for view in (await MoneyOperations(mesh, caller).budgets()).items]

        assert await seen("acme") == ["ours"]
        assert await seen("other") == []
        assert sorted(await seen("default")) == ["all", "each"]
        assert sorted(await seen("acme", all_tenants=True)) == ["all", "each", "ours"]


async def test_without_a_budget_there_is_nothing_to_show(tmp_path: Path) -> None:
    async with limited(tmp_path, budgets=[]) as mesh:
        await mesh.get(Tasks).ask("clerk", "Do it.")
    told = await budgets("--data", str(tmp_path / ".mesh"))
    assert (told.out, told.status) == ("", 0)
    assert "mesh.toml declares them as [[ledger.budgets]]" in told.err


class Crowd(Clerk):
    """Works on many tasks at once."""

    agent_id = "crowd"
    max_concurrency = 100


async def test_after_a_restart_small_calls_fit_what_is_left_of_a_budget(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    async with FakeProvider(usage=usage) as fake:
        # $0.0011 a call. Until something is learned, each may cost $0.1, and ten fill the budget.
        prices = {"input": 1, "output": 100}
        budgets = [{"name": "all", "limit_usd": "1"}]
        known = {"model": "http", "litellm_base_url": fake.url, "default_price": prices, "budgets": budgets}
        settings = load_settings(tmp_path, **known)
        async with build_mesh(settings, project=tmp_path, agents=[Crowd]) as mesh:
            for n in range(3):
                assert (await mesh.get(Tasks).ask("crowd", f"Small task {n}.")).success
        fake.gate = asyncio.Barrier(12)  # none is answered before all are made
        async with build_mesh(settings, project=tmp_path, agents=[Crowd]) as mesh, asyncio.timeout(240):
            outcomes = await asyncio.gather(
                *[mesh.get(Tasks).ask("crowd", f"Small task {n}.") for n in range(12)]
            )
            [view] = await mesh.get(Spending).budget_views(None)
    assert all(outcome.success for outcome in outcomes)
    assert (view.spent_usd, view.reserved_usd) == (15 * Decimal("0.0011"), 0)

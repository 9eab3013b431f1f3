"""A store that processes share loses the record of a call: it is made again, and both are paid for."""

import asyncio
from collections.abc import Awaitable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from meshwright.core.errors import StoreUnavailable
from meshwright.core.events import Event
from meshwright.engine.kernel.envelope import Record
from meshwright.engine.kernel.runtime import Runtime
from meshwright.mesh.app import StoreDeps, build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.costs import CostQuery, sum_costs
from meshwright.parts.proving.evidence import BUDGET
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import CountingModel, make_agents
from meshwright.testing.mesh import memory_runtime
from tests.support.faults.node import ROOT
from tests.support.settings import Settings

DOLLAR = Decimal(1)


class Losing(Runtime):
    """Its store is away just as the first record of a call is written."""

    is_away = True

    def append(self, record: Record, events: Sequence[Event] = (), **options: Any) -> Awaitable[None]:
        if not (self.is_away and '"calls"' in str(record.value)):
            return super().append(record, events, **options)
        self.is_away = False
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.set_exception(StoreUnavailable("The store is away"))
        return lost


def losing(deps: StoreDeps) -> Runtime:
    return memory_runtime(deps.clock, sort=Losing, log=deps.log, database=deps.database)


async def test_a_call_whose_record_is_lost_is_made_again_and_counted_by_budget_and_ledger(
    tmp_path: Path,
) -> None:
    books = Records(tmp_path)
    settings = Settings(
        store="memory",
        budgets=[{"name": "all", "limit_usd": "100"}],
        default_price={"input": "0", "output": "1000"},
    )
    model = CountingModel(books, lambda point: None, cost_usd=DOLLAR)
    fleet = make_agents(books, lambda point: None)
    async with build_mesh(settings, project=ROOT, agents=fleet, model=model, runtime=losing) as mesh:
        outcome = await mesh.get(Tasks).ask("clerk", "plain 1")
        balance = await mesh.runtime.read(BUDGET)
        total = (await sum_costs(mesh.log, CostQuery(None))).total
    assert outcome.success and books.calls.count() == 2
    assert (balance.spent, balance.reserved) == (2 * DOLLAR, 0)
    assert (total.calls, total.cost_usd, outcome.cost_usd) == (2, 2 * DOLLAR, 2 * DOLLAR)

"""Answers at a cost, and what the ledger says of the tasks that they were for."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from meshwright import Agent, Capability
from meshwright.agents.context.memory import MemoryItem, MemoryStore
from meshwright.core.messages import Outcome, Usage
from meshwright.core.money import Price
from meshwright.mesh.mesh import Mesh
from meshwright.models.port import ModelReply, ToolCall
from meshwright.money.costs import Cost, CostQuery
from meshwright.money.spending import Spending

PRICE = Price(input=Decimal(3), output=Decimal(15))
HOLD = (ToolCall(id="c1", name="hold", arguments="{}"),)
LONG = (
    "The event log is a table of the file mesh.db, and it holds whatever happens. " * 50,
    "An event log is only ever written at its end, so that a reader can follow it. " * 50,
)
ROOMY = {"memory_max_tokens": 10_000, "rules": [{"token_ceiling": 100}]}
"""Settings of a context that takes LONG, which is so far above its ceiling that it is worth shortening."""


async def remember(mesh: Mesh) -> None:
    """Let the keeper remember long texts, which are shortened for it."""
    for n, text in enumerate(LONG):
        await mesh.get(MemoryStore).remember(
            MemoryItem(memory_id=f"m{n}", scope="agent", scope_id="keeper", text=text)
        )


def reply(cost: str | None, content: str = "Done.", **fields: Any) -> ModelReply:
    usage = Usage(prompt_tokens=100, completion_tokens=10)
    known = None if cost is None else Decimal(cost)
    return ModelReply(content=content, model="big", usage=usage, cost_usd=known, **fields)


def asks(cost: str) -> ModelReply:
    return reply(cost, "", tool_calls=HOLD)


class Other(Agent):
    """Does what the keeper could not."""

    agent_id = "other"
    capabilities = (Capability("keeping"),)


async def ledger_of(mesh: Mesh, outcome: Outcome) -> Cost:
    await check_ledger(mesh, outcome)
    [cost] = [
        cost
        for cost in (await mesh.get(Spending).costs(CostQuery("default", "task"))).items
        if cost.key == outcome.task_id
    ]
    return cost


async def check_ledger(mesh: Mesh, outcome: Outcome) -> None:
    """A task's outcome must say what the ledger says of it and of the tasks below it."""
    costs = {cost.key: cost for cost in (await mesh.get(Spending).costs(CostQuery("default", "task"))).items}
    listed = (await mesh.log.tasks(tenant_id="default")).items
    family = [outcome.task_id]
    for task_id in family:
        family += [task.task_id for task in listed if task.parent_task_id == task_id]
    rows = [costs[task_id] for task_id in family if task_id in costs]
    assert sum(row.prompt_tokens for row in rows) == outcome.usage.prompt_tokens
    assert sum(row.completion_tokens for row in rows) == outcome.usage.completion_tokens
    if outcome.cost_usd is None:
        assert any(row.unpriced for row in rows)
    else:
        assert sum(row.cost_usd or 0 for row in rows) == outcome.cost_usd
        assert not any(row.unpriced for row in rows)

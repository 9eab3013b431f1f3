"""Answers at a cost, and what the ledger says of the tasks that they were for."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from meshwright import Agent, Capability, Mesh
from meshwright.ledger.costs import Cost
from meshwright.messages import Outcome, Usage
from meshwright.models.port import ModelReply, ToolCall
from meshwright.money import Price

PRICE = Price(input=Decimal(3), output=Decimal(15))
HOLD = (ToolCall(id="c1", name="hold", arguments="{}"),)
LONG = "The event log is a table of the file mesh.db, and it holds whatever happens. " * 100


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
    """What the ledger says of a task, which must be what its outcome says."""
    found = await mesh.costs("task")
    [cost] = [item for item in found.items if item.key == outcome.task_id]
    assert (cost.prompt_tokens, cost.completion_tokens) == (
        outcome.usage.prompt_tokens,
        outcome.usage.completion_tokens,
    )
    if outcome.cost_usd is None:
        assert cost.unpriced
    else:
        assert (cost.cost_usd, cost.unpriced) == (outcome.cost_usd, 0)
    return cost

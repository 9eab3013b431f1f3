"""Shops of pydantic-ai with tools of its own, which `MeshDurability` makes durable; see `shops.py`."""

from _deployed import INSTRUCTIONS as DEPLOYED
from _example import INSTRUCTIONS
from _places import POOR, RICH, hold, note
from pydantic_ai import Agent as PydanticAgent

from meshwright import Agent, Capability, Run
from meshwright.pydantic_ai import MeshDurability


def shop_of(instructions: str) -> PydanticAgent[None, str]:
    agent = PydanticAgent(name="shop", instructions=instructions, capabilities=[MeshDurability()])

    @agent.tool_plain(metadata={"idempotent": True})
    async def stock(item: str) -> str:
        """Say how many there are of an item."""
        await hold(Run.current().task, f"stock:{item}")
        note(Run.current().task, f"stock {item}")
        return f"2 of {item}"

    @agent.tool_plain
    async def charge(cents: int) -> str:
        """Charge the card of the customer."""
        await hold(Run.current().task, "charge:before")
        note(Run.current().task, f"charge {cents}")
        await hold(Run.current().task, "charge:after")
        return f"charged {cents}"

    @agent.tool_plain(requires_approval=True)
    async def ship(item: str) -> str:
        """Ship an item."""
        await hold(Run.current().task, "ship:before")
        note(Run.current().task, f"ship {item}")
        await hold(Run.current().task, "ship:after")
        return f"shipped {item}"

    return agent


class Seller(Agent):
    """Sells, and is killed."""

    agent_id = "seller"
    capabilities = (Capability("selling"),)
    max_concurrency = 32
    shop = shop_of(INSTRUCTIONS)

    async def run(self, run: Run) -> str:
        return (await self.shop.run(run.task.text)).output


class Poor(Seller):
    """Has money for some calls."""

    agent_id = "poor"
    budgets = (POOR,)


class Deployed(Seller):
    """Its code changes."""

    agent_id = "deployed"
    shop = shop_of(DEPLOYED)


class DeployedRich(Deployed):
    """Its code changes, and it has a budget."""

    agent_id = "deployed-rich"
    budgets = (RICH,)

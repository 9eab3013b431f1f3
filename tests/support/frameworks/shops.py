"""The shop of an example, with tools that write down what they do and that a task can hold at a place.

It is a module of the project of a test, beside `_example.py` and, for a deploy, `_deployed.py`.
"""

from _deployed import Shop as DeployedShop
from _example import Shop
from _places import POOR, RICH, hold, note

from meshwright import ToolContext, tool


class Tools:
    """The tools of each shop."""

    max_concurrency = 32

    @tool(idempotent=True, effect="read")
    async def stock(self, item: str, context: ToolContext) -> str:
        """Say how many there are of an item."""
        await hold(context.task, f"stock:{item}")
        note(context.task, f"stock {item}")
        return f"2 of {item}"

    @tool()
    async def charge(self, cents: int, context: ToolContext) -> str:
        """Charge the card of the customer."""
        await hold(context.task, "charge:before")
        note(context.task, f"charge {cents}")
        await hold(context.task, "charge:after")
        return f"charged {cents}"

    @tool(needs_approval=True)
    async def ship(self, item: str, context: ToolContext) -> str:
        """Ship an item."""
        await hold(context.task, "ship:before")
        note(context.task, f"ship {item}")
        await hold(context.task, "ship:after")
        return f"shipped {item}"


class Seller(Tools, Shop):
    """Sells, and is killed."""

    agent_id = "seller"


class Poor(Tools, Shop):
    """Has money for some calls."""

    agent_id = "poor"
    budgets = (POOR,)


class Deployed(Tools, DeployedShop):
    """Its code changes."""

    agent_id = "deployed"


class DeployedRich(Deployed):
    """Its code changes, and it has a budget."""

    agent_id = "deployed-rich"
    budgets = (RICH,)

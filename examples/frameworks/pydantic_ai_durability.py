"""A pydantic-ai agent with its own tools: python pydantic_ai_durability.py, then mesh ask shop "Sell it"."""

import pydantic_ai

from meshwright import Agent, Capability, Run, run_mesh
from meshwright.pydantic_ai import MeshDurability

INSTRUCTIONS = "You sell things."
seller = pydantic_ai.Agent(name="seller", instructions=INSTRUCTIONS, capabilities=[MeshDurability()])


@seller.tool_plain(requires_approval=True)
async def ship(item: str) -> str:
    """Ship an item."""
    return f"shipped {item}"


class Shop(Agent):
    """Sells things."""

    agent_id = "shop"
    capabilities = (Capability("selling"),)

    async def run(self, run: Run) -> str:
        """Sell what the task names."""
        return (await seller.run(run.task.text)).output


if __name__ == "__main__":
    run_mesh()

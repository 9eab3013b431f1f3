"""An agent of Microsoft's Agent Framework: python agent_framework_shop.py, then mesh ask shop "Sell it"."""

import agent_framework
from agent_framework.openai import OpenAIChatCompletionClient

from meshwright import Agent, Capability, Run, run_mesh, tool


class Shop(Agent):
    """Sells things."""

    agent_id = "shop"
    capabilities = (Capability("selling"),)

    @tool(idempotent=True, effect="read")
    async def stock(self, item: str) -> str:
        """Say how many there are of an item."""
        return f"2 of {item}"

    @tool(needs_approval=True)
    async def ship(self, item: str) -> str:
        """Ship an item."""
        return f"shipped {item}"

    async def run(self, run: Run) -> str:
        """Sell what the task names."""
        client = OpenAIChatCompletionClient(model="default", async_client=run.openai())
        agent = agent_framework.Agent(client, "You sell things.", tools=run.functions())
        return (await agent.run(run.task.text)).text


if __name__ == "__main__":
    run_mesh()

"""An agent of pydantic-ai: python pydantic_ai_shop.py, then mesh ask shop "Sell it"."""

import pydantic_ai
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

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
        model = OpenAIChatModel("default", provider=OpenAIProvider(openai_client=run.openai()))
        agent = pydantic_ai.Agent(model, instructions="You sell things.", tools=run.functions())
        return (await agent.run(run.task.text)).output


if __name__ == "__main__":
    run_mesh()

"""An agent of Google's ADK: python google_adk_shop.py, then mesh ask shop "Sell it"."""

from google.adk.agents import LlmAgent
from google.adk.models.anthropic_llm import AnthropicLlm
from google.adk.runners import InMemoryRunner

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
        model = AnthropicLlm(model="default", client=run.anthropic())
        agent = LlmAgent(name="shop", model=model, instruction="You sell things.", tools=run.functions())
        events = await InMemoryRunner(agent=agent).run_debug(run.task.text, quiet=True)
        return events[-1].content.parts[-1].text


if __name__ == "__main__":
    run_mesh()

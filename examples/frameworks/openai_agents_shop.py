"""An agent of the OpenAI Agents SDK: python openai_agents_shop.py, then mesh ask shop "Sell it"."""

import agents

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
        agents.set_tracing_disabled(True)
        model = agents.OpenAIChatCompletionsModel("default", run.openai())
        tools = [agents.function_tool(function) for function in run.functions()]
        agent = agents.Agent(name="shop", instructions="You sell things.", model=model, tools=tools)
        return (await agents.Runner.run(agent, run.task.text)).final_output


if __name__ == "__main__":
    run_mesh()

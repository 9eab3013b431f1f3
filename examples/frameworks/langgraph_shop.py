"""An agent of LangChain, a graph of LangGraph: python langgraph_shop.py, then mesh ask shop "Sell it"."""

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

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
        api = run.openai()
        own = {"async_client": api.chat.completions, "root_async_client": api, "api_key": "run"}
        agent = create_agent(ChatOpenAI(model="default", base_url=str(api.base_url), **own), run.functions())
        state = await agent.ainvoke({"messages": [("system", "You sell things."), ("user", run.task.text)]})
        return state["messages"][-1].content


if __name__ == "__main__":
    run_mesh()

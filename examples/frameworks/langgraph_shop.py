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
        client = run.openai()
        clients = {"async_client": client.chat.completions, "root_async_client": client}
        model = ChatOpenAI(model="default", api_key="run", base_url=str(client.base_url), **clients)
        agent = create_agent(model, run.functions())
        state = await agent.ainvoke({"messages": [("system", "You sell things."), ("user", run.task.text)]})
        return state["messages"][-1].content


if __name__ == "__main__":
    run_mesh()

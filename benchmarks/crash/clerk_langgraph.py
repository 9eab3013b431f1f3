"""A clerk in a mesh whose work is done by LangGraph."""

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

from benchmarks.crash.clerk import Clerk
from benchmarks.crash.shop_tools import INSTRUCTIONS
from meshwright import Run


class GraphClerk(Clerk):
    """Works by LangGraph."""

    agent_id = "langgraph"

    async def run(self, run: Run) -> str:
        """Refund what the task names."""
        client = run.openai()
        clients = {"async_client": client.chat.completions, "root_async_client": client}
        model = ChatOpenAI(model="default", api_key="run", **clients)
        agent = create_agent(model, run.functions(), system_prompt=INSTRUCTIONS)
        state = await agent.ainvoke({"messages": [("user", run.task.text)]})
        return state["messages"][-1].content

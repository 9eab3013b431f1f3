"""A clerk in a mesh whose work is done by Microsoft's Agent Framework."""

import agent_framework
from agent_framework.openai import OpenAIChatCompletionClient

from benchmarks.crash.clerk import Clerk
from benchmarks.crash.shop_tools import INSTRUCTIONS
from meshwright import Run


class FrameworkClerk(Clerk):
    """Works by the Agent Framework."""

    agent_id = "agent-framework"

    async def run(self, run: Run) -> str:
        """Refund what the task names."""
        client = OpenAIChatCompletionClient(model="default", async_client=run.openai())
        agent = agent_framework.Agent(client, INSTRUCTIONS, tools=run.functions())
        return (await agent.run(run.task.text)).text

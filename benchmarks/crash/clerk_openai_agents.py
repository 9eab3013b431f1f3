"""A clerk in a mesh whose work is done by the OpenAI Agents SDK."""

import agents

from benchmarks.crash.clerk import Clerk
from benchmarks.crash.shop_tools import INSTRUCTIONS
from meshwright import Run


class OpenAIClerk(Clerk):
    """Works by the OpenAI Agents SDK."""

    agent_id = "openai-agents"

    async def run(self, run: Run) -> str:
        """Refund what the task names."""
        agents.set_tracing_disabled(True)
        model = agents.OpenAIChatCompletionsModel("default", run.openai())
        tools = [agents.function_tool(function) for function in run.functions()]
        agent = agents.Agent(name="clerk", instructions=INSTRUCTIONS, model=model, tools=tools)
        return (await agents.Runner.run(agent, run.task.text)).final_output

"""A clerk in a mesh whose work is done by pydantic-ai."""

import pydantic_ai
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from benchmarks.crash.clerk import Clerk
from benchmarks.crash.shop_tools import INSTRUCTIONS
from meshwright import Run


class PydanticClerk(Clerk):
    """Works by pydantic-ai."""

    agent_id = "pydantic-ai"

    async def run(self, run: Run) -> str:
        """Refund what the task names."""
        model = OpenAIChatModel("default", provider=OpenAIProvider(openai_client=run.openai()))
        agent = pydantic_ai.Agent(model, instructions=INSTRUCTIONS, tools=run.functions())
        return (await agent.run(run.task.text)).output

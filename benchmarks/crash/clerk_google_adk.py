"""A clerk in a mesh whose work is done by Google's ADK."""

from google.adk.agents import LlmAgent
from google.adk.models.anthropic_llm import AnthropicLlm
from google.adk.runners import InMemoryRunner

from benchmarks.crash.clerk import Clerk
from benchmarks.crash.shop_tools import INSTRUCTIONS
from meshwright import Run


class AdkClerk(Clerk):
    """Works by the ADK."""

    agent_id = "google-adk"

    async def run(self, run: Run) -> str:
        """Refund what the task names."""
        model = AnthropicLlm(model="default", client=run.anthropic())
        agent = LlmAgent(name="clerk", model=model, instruction=INSTRUCTIONS, tools=run.functions())
        events = await InMemoryRunner(agent=agent).run_debug(run.task.text, quiet=True)
        return events[-1].content.parts[-1].text

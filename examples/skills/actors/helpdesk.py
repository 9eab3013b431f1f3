"""support: answers by the rules of the shop, which are a skill."""

from meshwright import Agent, Capability, Run


class Support(Agent):
    """Answers customers; has the skill refunds."""

    agent_id = "support"
    capabilities = (Capability("support"),)
    skills = ("refunds",)

    async def run(self, run: Run) -> str:
        """Read the rules, then answer; an agent without `run` has its model decide when to read them."""
        rules = await run.call("read_skill", skill="refunds")
        return await run.ask(f"{run.task.text}\n\nThe rules of the shop:\n{rules['text']}")

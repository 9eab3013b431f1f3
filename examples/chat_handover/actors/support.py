"""support: answers customers, and hands over to a person what is about money."""

from meshwright import Agent, Capability, Run


class Support(Agent):
    """Answers customers; needs no model."""

    agent_id = "support"
    capabilities = (Capability("support"),)

    async def run(self, run: Run) -> str:
        """Answer, or wait for a person, who answers in the same chat; days will do."""
        if "money" in run.task.text.casefold():
            return await run.ask_person(f"A customer says: {run.task.text} What do we answer?")
        return "We are open from 9 to 5."

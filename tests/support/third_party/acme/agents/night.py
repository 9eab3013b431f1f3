"""The agent of the night shift."""

from meshwright import Agent, Capability, Run


class NightShift(Agent):
    """Notes what it is told, and says what it knows. Its prompt is that of Acme's component."""

    agent_id = "night-shift"
    capabilities = (Capability("watching"),)
    remembers = False

    async def run(self, run: Run) -> str:
        """Remember, then answer."""
        await run.remember(run.task.text, "agent")
        return await run.converse()

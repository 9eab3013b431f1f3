"""watchman: says what a device does about its temperature."""

from meshwright import Agent, Capability, Run


class Watchman(Agent):
    """Decides by the temperature that a device has measured; needs no model."""

    agent_id = "watchman"
    capabilities = (Capability("watching"),)

    async def run(self, run: Run) -> dict[str, str]:
        """Decide; the answer is data."""
        celsius = float(run.task.payload["celsius"])
        return {"do": "stop" if celsius > 80 else "go on", "text": f"{celsius:g} degrees"}

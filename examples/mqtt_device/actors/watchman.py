"""watchman: says what a device does about its temperature."""

from pydantic import BaseModel, Field

from meshwright import Agent, Capability, Run


class Measurement(BaseModel):
    """The payload of its tasks: one without a number is refused at the door."""

    celsius: float = Field(description="degrees, as the device has measured them")


class Watchman(Agent):
    """Decides by the temperature that a device has measured; needs no model."""

    agent_id = "watchman"
    capabilities = (Capability("watching", input_schema=Measurement),)

    async def run(self, run: Run) -> dict[str, str]:
        """Decide; the answer is data."""
        celsius = Measurement.model_validate(run.task.payload).celsius
        return {"do": "stop" if celsius > 80 else "go on", "text": f"{celsius:g} degrees"}

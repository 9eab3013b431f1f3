"""architect-agent: weighs designs and reviews architecture; has what it does not know researched."""

from meshwright import Agent, Capability
from meshwright.tools import FileTools, GitTools


class ArchitectAgent(Agent):
    """Advises on a design from what the workspace holds; delegates questions of fact to the researcher."""

    agent_id = "architect-agent"
    capabilities = (
        Capability("architecture-review", preferred=True),
        Capability("tech-consultation", preferred=True),
    )
    toolsets = (FileTools, GitTools)
    delegates_to = ("researcher-agent",)

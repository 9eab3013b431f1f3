"""architect-agent: weighs designs and reviews architecture; has what it does not know researched."""

from meshwright import Agent, Capability
from meshwright.tools import FileTools, GitTools
from meshwright.toolsets.api import ApiTools
from meshwright.toolsets.code import ReadingTools
from meshwright.toolsets.kube import KubeReadTools
from meshwright.toolsets.observe import ObserveReadTools

from ._reviews import Reviewing


class ArchitectAgent(Reviewing, Agent):
    """Advises on a design from workspace, tree, and what runs; delegates questions of fact."""

    agent_id = "architect-agent"
    capabilities = (
        Capability("architecture-review", preferred=True),
        Capability("tech-consultation", preferred=True),
        Capability("code-review", weight=0.7),
    )
    toolsets = (FileTools, GitTools, ReadingTools, ApiTools, KubeReadTools, ObserveReadTools)
    delegates_to = ("researcher-agent",)

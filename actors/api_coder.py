"""api-coder: fixes bugs, writes backend code, designs and reviews interfaces, on a tree of its own."""

from meshwright import Agent, Capability
from meshwright.toolsets.api import ApiTools
from meshwright.toolsets.code import CodeTools

from ._reviews import Reviewing


class ApiCoder(Reviewing, Agent):
    """Changes code in the tree of its task, runs its tests in the sandbox, and proposes the change."""

    agent_id = "api-coder"
    capabilities = (
        Capability("backend-coding"),
        Capability("bug-fix"),
        Capability("code-review", weight=0.9),
        Capability("api-design", weight=0.9),
    )
    toolsets = (CodeTools, ApiTools)

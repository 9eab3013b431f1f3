"""api-coder: designs interfaces, and reads, reviews and explains backend code."""

from meshwright import Agent, Capability
from meshwright.tools import FileTools, GitTools


class ApiCoder(Agent):
    """Works on backend code from the files and the history of the workspace, which it only reads."""

    agent_id = "api-coder"
    capabilities = (
        Capability("backend-coding"),
        Capability("bug-fix"),
        Capability("code-review", weight=0.9),
        Capability("api-design", weight=0.9),
    )
    toolsets = (FileTools, GitTools)

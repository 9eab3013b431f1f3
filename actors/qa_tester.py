"""qa-tester: plans, writes and runs tests, and says what their output means."""

from meshwright import Agent, Capability
from meshwright.toolsets.quality import QaTools

from ._reviews import Reviewing


class QaTester(Reviewing, Agent):
    """Judges the code of a tree by its tests, which it may write; other files it only reads."""

    agent_id = "qa-tester"
    capabilities = (
        Capability("qa-review"),
        Capability("test-planning"),
        Capability("test-generation"),
        Capability("test-analysis"),
        Capability("code-review", weight=0.8),
    )
    toolsets = (QaTools,)

"""ExternalAgent: an agent of the mesh whose program runs outside and claims its runs."""

from __future__ import annotations

from typing import Any, ClassVar

from meshwright import Agent, Capability, Run
from meshwright.parts.external.run import ExternalRun
from meshwright.parts.external.runs import ExternalRuns
from meshwright.parts.external.settings import ExternalAgentTable


class ExternalAgent(Agent, abstract=True):
    """An agent whose program runs elsewhere: see docs/external.md."""

    runs: ClassVar[ExternalRuns]
    """Its runs of this process."""
    remembers = False
    reads_log = True  # so that its runs are in the process that answers programs

    async def run(self, run: Run) -> dict[str, Any]:
        """Have a program work on the task."""
        return await ExternalRun(run, self.runs).finish()


def make_agent(name: str, table: ExternalAgentTable) -> type[Agent]:
    """Make the agent of a table."""
    names = dict.fromkeys([name, *table.capabilities])
    fields = {
        "__doc__": table.description,
        "__module__": __name__,
        "agent_id": name,
        "capabilities": tuple(Capability(one, weight=table.weight) for one in names),
        "runs": ExternalRuns(name, table),
        "deadline": table.deadline,
        "limits": table.limits,
        "max_concurrency": table.max_concurrency,
        "toolsets": table.toolsets,
        "delegates_to": table.delegates_to,
        "model": table.model,
    }
    return type(f"External{name.title()}", (ExternalAgent,), fields)

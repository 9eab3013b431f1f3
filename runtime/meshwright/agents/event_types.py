"""The events of agents and of their toolsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshwright.core import topics
from meshwright.core.display import Document, short
from meshwright.core.payloads import Fact, Payload, declared


class AgentRegistered(
    Payload,
    type="agent.registered agent.degraded agent.offline agent.recovered agent.unhealthy",
    topic=topics.AGENTS,
    listed="the registration",
):
    agent_id: str
    kind: Fact[str | None] = None
    name: Fact[str | None] = None
    status: Fact[str | None] = None
    was: str | None = None
    silent_seconds: float | None = None
    problem: str | None = None
    capabilities: tuple[dict[str, Any], ...] = ()

    def event_line(self, event: Document) -> Sequence[object] | None:
        if "capabilities" not in event["payload"]:
            return None
        names = ", ".join(str(capability["name"]) for capability in self.capabilities)
        return (names or self.kind,)


class AgentHeartbeat(Payload, type="agent.heartbeat", topic=topics.AGENTS, listed="the registration"):
    """Not stored."""


class AgentRollCall(
    Payload,
    type="agent.roll_call",
    topic=topics.AGENTS,
    listed="nothing: a process asks which agents are there, not stored",
):
    pass


class AgentMissing(
    Payload,
    type="agent.missing agent.returned",
    word={"agent.missing": "missing", "agent.returned": "returned"},
):
    agent_id: str
    tasks: Fact[int]
    """open ones that wait for it"""
    task_ids: list[str]
    """some of them"""

    def event_line(self, event: Document) -> Sequence[object]:
        if event["event_type"] == "agent.missing":
            return (self.sentence,)
        go_on = "no task waits for it" if not self.tasks else "1 open task goes on" if self.tasks == 1 else ""
        go_on = go_on or f"{self.tasks:,} open tasks go on"
        some = f": {self._some_tasks}" if self.tasks else ""
        return (f"agent {self.agent_id or '?'} is loaded again; {go_on}{some}",)

    @property
    def sentence(self) -> str:
        """Says that it is missing, and which tasks wait for it."""
        wait = "1 open task waits" if self.tasks == 1 else f"{self.tasks:,} open tasks wait"
        return f"agent {self.agent_id or '?'} is not loaded here; {wait} for it: {self._some_tasks}"

    @property
    def _some_tasks(self) -> str:
        return ", ".join(self.task_ids) + (", ..." if self.tasks > len(self.task_ids) else "")


class AgentCodeChanged(Payload, type="agent.code_changed", word="code changed"):
    agent_id: str
    code: str | None
    before: str | None
    tasks: Fact[int]
    """open ones that began with other code"""
    once: int

    def event_line(self, event: Document) -> Sequence[object]:
        agent_id = self.agent_id or "?"
        return code_changed(agent_id, self.tasks, self.once), f"(mesh tasks --agent {agent_id})"


def code_changed(agent_id: str, tasks: int, once: int) -> str:
    """How many open tasks of an agent began with other code, and how many of those did what counts once."""
    open_tasks = "1 open task" if tasks == 1 else f"{tasks} open tasks"
    steps = f"; {once} with steps that are not idempotent" if once else ""
    return f"{open_tasks} of {agent_id} began with other code{steps}"


class ToolOverran(Payload, type="tool.overran", topic=topics.TASK_PROGRESS, word="tool"):
    """The thread of an abandoned call."""

    tool: Fact[str]
    seconds: Fact[float | int]
    ended: Fact[bool]

    def event_line(self, event: Document) -> Sequence[object]:
        end = "has ended at last" if self.ended else "was given up, and its thread still runs"
        return (f"{self.tool or '?'} {end}, after {self.seconds} s",)


class ToolsetReady(Payload, type="toolset.ready toolset.changed", word="toolset"):
    name: Fact[str]
    tools: Fact[int]
    """how many"""

    def event_line(self, event: Document) -> Sequence[object]:
        if event["event_type"] == "toolset.changed":
            return (f"{self.name or '?'} has {self.tools} tools now",)
        return (f"{self.name or '?'} is ready, with {self.tools} tools",)


class ToolsetDegraded(Payload, type="toolset.degraded", word="toolset"):
    name: Fact[str]
    reason: str

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.name or '?'} is not available: {short(self.reason)}",)


EVENTS = declared(__name__)

"""[agent_models]: which agents are models of the llm-service."""

from __future__ import annotations

from meshwright.component import Table


class AgentModelsSettings(Table):
    """[agent_models]: agents as models of `/v1`, named `agent/ID`. A call is a task."""

    enabled: bool = True
    """Whether there are such models."""
    agents: tuple[str, ...] = ("*",)
    """Patterns of the agents that are models, like `review-*`."""

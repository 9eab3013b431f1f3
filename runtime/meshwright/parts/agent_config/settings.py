"""[agent_config]: the models that callers choose for agents."""

from __future__ import annotations

from pydantic import Field

from meshwright.component import Table


class AgentConfigSettings(Table):
    """[agent_config]: which model each agent calls, as callers configure it while the mesh runs."""

    ttl_seconds: float = Field(default=300.0, ge=1)
    """Seconds that a worker trusts its copy of the configurations."""
    max_agents: int = Field(default=1_000, ge=1, le=100_000)
    """Configurations of one tenant."""
    max_subscribers: int = Field(default=200, ge=0, le=10_000)
    """WebSocket clients of one front."""

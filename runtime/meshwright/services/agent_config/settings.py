"""[agent_config]: the models that callers choose for agents."""

from __future__ import annotations

from pydantic import Field

from meshwright.settings.forms import Table


class AgentConfigSettings(Table):
    """[agent_config]: which model each agent calls, as callers configure it while the mesh runs."""

    ttl_seconds: float = Field(default=300.0, ge=1)
    """How long a worker goes by the configurations that it has read, where no event says that one changed."""
    max_agents: int = Field(default=1_000, ge=1, le=100_000)
    """Configurations that one tenant may have."""
    max_subscribers: int = Field(default=200, ge=0, le=10_000)
    """WebSocket clients that one front serves at a time."""

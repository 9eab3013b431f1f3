"""[a2a]: whether the mesh serves A2A, and for which agents."""

from __future__ import annotations

from pydantic import Field

from meshwright.component import Table
from meshwright.core.settings.forms import Network


class A2aSettings(Table):
    """[a2a]: agents for agents elsewhere that speak A2A 1.0, below `/a2a`."""

    enabled: bool = True
    """Whether there are such routes. Nothing of them is loaded before the first request."""
    agents: tuple[str, ...] = ("*",)
    """Patterns of the agents that A2A reaches, like `help-*`."""
    default_agent: str = ""
    """The agent for messages to `/a2a` that name no skill. Default: the only agent that A2A reaches."""
    open_cards: bool = False
    """Whether agent cards need no key. The extended card, with the schemas of skills, always needs one."""
    push: bool = False
    """Whether clients may name URLs that get the updates of their tasks."""
    push_networks: tuple[Network, ...] = ()
    """Private networks that updates may go to, over http too. Public addresses are reached by https."""
    wait_seconds: float = Field(default=300.0, ge=0, le=300)
    """Seconds that `SendMessage` waits for the end of its task, or for its question."""

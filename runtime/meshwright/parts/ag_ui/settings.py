"""[ag_ui]: whether the mesh serves AG-UI, and for which agents."""

from __future__ import annotations

from meshwright.component import Table


class AgUiSettings(Table):
    """[ag_ui]: agents for user interfaces that speak AG-UI, at `/ag-ui/AGENT`."""

    enabled: bool = True
    """Whether there are such routes. Nothing of them is loaded before the first request."""
    agents: tuple[str, ...] = ("*",)
    """Patterns of the agents that user interfaces reach, like `help-*`."""

"""The errors of agents elsewhere."""

from __future__ import annotations

from meshwright import ToolFailed


class RemoteTaskFailed(ToolFailed):
    """The task of an agent elsewhere failed there, or was cancelled there."""

"""[page]: the page of the mesh, and the sessions of its readers."""

from __future__ import annotations

from pydantic import Field

from meshwright.component import Table


class PageSettings(Table):
    """[page]: the page at `/`, and how long its readers stay logged in."""

    enabled: bool = True
    """Whether there is a page."""
    session_hours: float = Field(default=12.0, gt=0, le=720)
    """Hours of the longest login."""
    max_sessions: int = Field(default=10_000, ge=1)
    """Logins; newer ones end the oldest."""

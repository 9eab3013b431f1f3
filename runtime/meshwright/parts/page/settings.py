"""[page]: the page of the mesh, and the sessions of its readers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from meshwright.component import Table
from meshwright.core.settings.forms import http_url


class PageSettings(Table):
    """[page]: the page at `/`, and how long its readers stay logged in."""

    enabled: bool = True
    """Whether there is a page."""
    url: Annotated[str | None, http_url("https://mesh.example.com")] = None
    """The address at which browsers find it, for links in messages; default: `url` of [oidc]."""
    session_hours: float = Field(default=12.0, gt=0, le=720)
    """Hours of the longest login."""
    max_sessions: int = Field(default=10_000, ge=1)
    """Logins; newer ones end the oldest."""

"""[figures]: when an attempt counts as stuck, and how fresh the tables are that scalers read."""

from __future__ import annotations

from pydantic import Field

from meshwright.component import Table


class FiguresSettings(Table):
    """[figures]: the figures of `mesh status`, `/figures`, `/metrics` and `/scale`."""

    stuck_seconds: float = Field(default=10.0, gt=0)
    """Seconds until an attempt may count as stuck."""
    refresh_seconds: float = Field(default=5.0, ge=1)
    """Seconds between counts of calls."""

"""[figures]: when an attempt counts as stuck, and how fresh the tables are that scalers read."""

from __future__ import annotations

from pydantic import Field

from meshwright.settings.forms import Table


class FiguresSettings(Table):
    """[figures]: the figures of `mesh status`, `/figures`, `/metrics` and `/scale`."""

    stuck_seconds: float = Field(default=10.0, gt=0)
    """Seconds that an attempt must have run before it may count as stuck, which it does at twice the p90 of
    its agent's last attempts."""
    refresh_seconds: float = Field(default=5.0, ge=1)
    """How often the calls of models are counted, and on PostgreSQL the tables brought up to date that
    `meshwright_scale` reads."""

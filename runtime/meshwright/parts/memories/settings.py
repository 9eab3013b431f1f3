"""[memories]."""

from __future__ import annotations

from pydantic import Field

from meshwright.component import Table


class MemoriesSettings(Table):
    """[memories]: the memories of agents."""

    forgotten_days: float = Field(default=7.0, ge=0, le=100_000)
    """Days that a forgotten memory can be brought back."""

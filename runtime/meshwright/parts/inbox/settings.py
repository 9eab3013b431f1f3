"""[inbox]."""

from __future__ import annotations

from pydantic import Field

from meshwright.component import Table


class InboxSettings(Table):
    """[inbox]: the questions that wait for people."""

    claim_seconds: float = Field(default=600.0, ge=10, le=86_400)
    """Seconds after which the claim of a question ends by itself, unless its owner renews it."""

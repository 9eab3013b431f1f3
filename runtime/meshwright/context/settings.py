"""[context]: the context of runs."""

from __future__ import annotations

from pydantic import Field

from meshwright.settings.forms import Table


class ContextSettings(Table):
    """[context]: the context of runs."""

    max_tokens: int = Field(default=8_000, ge=200)
    """Tokens that the context of one run may take."""
    memory_max_tokens: int = Field(default=1_000, ge=0)
    """Tokens of that which recalled memories may take; 0 recalls none."""
    window_tokens: int | None = Field(default=None, ge=1_000)
    """Tokens that a model reads in one call, where neither its price list nor `max_input_tokens` of its
    deployment says so. Unset: as many as it takes until it refuses."""

"""[evaluations]: which model judges, metrics of the project's own, and how much an evaluation may take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from meshwright.component import Table
from meshwright.kit import Identifier

_FUNCTION = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$"


class EvaluationsSettings(Table):
    """[evaluations]: answers of agents, measured and judged."""

    judge: str = Field(default="", max_length=200)
    """The models of the agent `judge`. Empty: there is none."""
    metrics: Mapping[Identifier, Annotated[str, Field(pattern=_FUNCTION)]] = {}
    """Metrics of your own, as `module:function`."""
    max_items: int = Field(default=1_000, ge=1, le=10_000)
    """Items of one evaluation."""
    max_item_bytes: int = Field(default=65_536, ge=1_024, le=1_048_576)
    """Bytes of one item."""
    max_bytes: int = Field(default=8 * 1_048_576, ge=65_536, le=64 * 1_048_576)
    """Bytes of a request."""
    max_kept: int = Field(default=100, ge=1, le=10_000)
    """Evaluations kept for a tenant."""
    max_open: int = Field(default=5, ge=1, le=1_000)
    """Evaluations of a tenant that run at a time."""
    parallel: int = Field(default=4, ge=1, le=64)
    """Items that a process works on at a time."""

"""[retention]."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from meshwright.component import Table


class RetentionSettings(Table):
    """[retention]: after how many days ended tasks leave the lists, and their contents go. Unset: never.

    `records_days` later their records go as well."""

    succeeded_days: float | None = Field(default=None, ge=0.01, le=100_000)
    """Days until succeeded tasks leave the lists."""
    failed_days: float | None = Field(default=None, ge=0.01, le=100_000)
    """The same of failed ones."""
    cancelled_days: float | None = Field(default=None, ge=0.01, le=100_000)
    """The same of cancelled ones."""
    timed_out_days: float | None = Field(default=None, ge=0.01, le=100_000)
    """The same of timed-out ones."""
    records_days: float = Field(default=30.0, ge=0.01, le=100_000)
    """Days that their records stay longer."""

    @property
    def days(self) -> Mapping[str, float | None]:
        """The days of each status."""
        return {name.removesuffix("_days"): value for name, value in self if name != "records_days"}

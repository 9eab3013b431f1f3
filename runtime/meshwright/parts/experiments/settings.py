"""[experiments]: variants that are tried on live agents."""

from __future__ import annotations

from pydantic import Field

from meshwright.component import Table


class ExperimentsSettings(Table):
    """[experiments]: variants of prompts, models and agents that are tried on tasks."""

    max_experiments: int = Field(default=1_000, ge=1, le=100_000)
    """Experiments of one tenant."""
    max_inputs: int = Field(default=1_000, ge=1, le=10_000)
    """Tasks of one request over inputs."""
    check_seconds: float = Field(default=5.0, ge=0)
    """Seconds between looks at the guards."""

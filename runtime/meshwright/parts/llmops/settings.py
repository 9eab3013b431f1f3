"""[llmops]: the prompts that callers register."""

from __future__ import annotations

from pydantic import Field

from meshwright.component import Table


class LlmopsSettings(Table):
    """[llmops]: the prompts that callers register while the mesh runs."""

    ttl_seconds: float = Field(default=300.0, ge=1)
    """Seconds that a worker trusts its copy of the labels."""
    max_prompts: int = Field(default=1_000, ge=1, le=100_000)
    """Prompts of one tenant."""
    max_versions: int = Field(default=1_000, ge=1, le=100_000)
    """Versions of one prompt."""

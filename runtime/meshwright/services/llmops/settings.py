"""[llmops]: the prompts that callers register."""

from __future__ import annotations

from pydantic import Field

from meshwright.settings.forms import Table


class LlmopsSettings(Table):
    """[llmops]: the prompts that callers register while the mesh runs."""

    ttl_seconds: float = Field(default=300.0, ge=1)
    """How long a worker goes by the labels that it has read, where no event says that one changed."""
    max_prompts: int = Field(default=1_000, ge=1, le=100_000)
    """Names of prompts that one tenant may register, deleted ones included: their versions stay readable."""
    max_versions: int = Field(default=1_000, ge=1, le=100_000)
    """Versions that one prompt may have."""

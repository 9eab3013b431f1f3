"""[agents], [prompts] and [tools]: the files of the project, and the limits of runs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from meshwright.core.limits import (
    DEADLINE_SECONDS,
    MAX_CALLS_PER_REPLY,
    MAX_REPEATS,
    MAX_STEPS,
    TIMEOUT_SECONDS,
    Limits,
)
from meshwright.core.money import Dollars
from meshwright.core.settings.forms import Table


class AgentsSettings(Table):
    """[agents]: where agents are found, and the limits of their runs."""

    dir: Path = Path("actors")
    """Folder of the agents: a Python file or package each."""
    include: tuple[str, ...] = ()
    """Agents of Meshwright beside yours: `digest-agent`."""
    max_concurrency: int = Field(default=8, ge=1, le=1_000)
    """Tasks of one agent at a time."""
    max_steps: int = Field(default=MAX_STEPS, ge=1, le=100_000)
    """Replies of a model that call tools, in one run."""
    max_repeats: int = Field(default=MAX_REPEATS, ge=2, le=100_000)
    """The same calls with the same results in a row."""
    max_calls_per_reply: int = Field(default=MAX_CALLS_PER_REPLY, ge=1, le=10_000)
    """Calls of tools in one reply of a model; the rest are answered as refused."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a run."""
    max_usd: Dollars | None = None
    """Dollars of a run."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Seconds of models and tools in a run."""
    timeout_seconds: float = Field(default=TIMEOUT_SECONDS, gt=0, le=86_400)
    """Seconds of one step."""
    deadline_seconds: float = Field(default=DEADLINE_SECONDS, gt=0, le=604_800)
    """Seconds of a task, without waits for people and money."""
    max_chain: int = Field(default=5, ge=1, le=50)
    """Depth of delegation."""

    @property
    def limits(self) -> Limits:
        """The limits of runs whose agents and tasks have none of their own."""
        return Limits(**{name: getattr(self, name) for name in Limits.model_fields})


class PromptsSettings(Table):
    """[prompts]: the prompt files."""

    variables: ClassVar = {"PROMPT_DIR": "dir"}
    dir: Path = Path("prompts")
    """Folder of the `.prompt` files."""
    reload_seconds: float = Field(default=5.0, gt=0)
    """Seconds between looks for changes."""

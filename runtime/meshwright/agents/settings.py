"""[agents], [prompts] and [tools]: the files of the project, and the limits of runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from meshwright.core.limits import DEADLINE_SECONDS, MAX_REPEATS, MAX_STEPS, TIMEOUT_SECONDS, Limits
from meshwright.core.money import Dollars
from meshwright.settings.forms import Table


class AgentsSettings(Table):
    """[agents]: where agents are found, and the limits of their runs."""

    dir: Path = Path("actors")
    """Folder of the agents: a Python file or package each."""
    include: tuple[str, ...] = ()
    """Agents that come with Meshwright, to have beside those of a folder of one's own: `digest-agent`, ..."""
    max_concurrency: int = Field(default=8, ge=1, le=1_000)
    """Tasks that one agent works on at a time, where it declares no number itself."""
    max_steps: int = Field(default=MAX_STEPS, ge=1, le=100_000)
    """Replies of a model that call tools, in one run. At this limit and the next four the model is asked once
    for its answer, without tools. Agents (`limits`) and tasks may have their own."""
    max_repeats: int = Field(default=MAX_REPEATS, ge=2, le=100_000)
    """How often in a row the same calls of tools may have the same results."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens that a run may read and write in all its calls of models; unset: no limit."""
    max_usd: Dollars | None = None
    """Dollars that the calls of a run may cost; unset: no limit but budgets."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Seconds that models and tools may take in a run; unset: no limit but the task's deadline."""
    timeout_seconds: float = Field(default=TIMEOUT_SECONDS, gt=0, le=86_400)
    """Seconds that a step of a run may take: a call of a model, or the agent's own code until the next step.
    Agents (`timeout`) and tasks may have their own; tools have `tools.timeout_seconds`."""
    deadline_seconds: float = Field(default=DEADLINE_SECONDS, gt=0, le=604_800)
    """Seconds that a task may take, without what it waits for people and money. Agents (`deadline`) and tasks
    may have their own."""
    max_chain: int = Field(default=5, ge=1, le=50)
    """How deep agents may delegate to one another."""

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
    """How often the prompt files are checked for changes."""


class ToolsSettings(Table):
    """[tools]: what tools may touch. Each further table [tools.NAME] is for the toolset of that name."""

    model_config = ConfigDict(extra="allow")

    workspace: Path = Path(".")
    """Folder that the agents' file and git tools may read; nothing outside of it."""
    allow_private_addresses: bool = False
    """Whether agents may fetch pages from private and loopback addresses."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Seconds that a call of a tool may take, where the tool declares no `timeout` itself."""

    @field_validator("workspace")
    @classmethod
    def _is_a_folder(cls, value: Path, info: ValidationInfo) -> Path:
        if info.context is not None and not (info.context["project"] / value).is_dir():
            raise ValueError("expected a folder that exists")
        return value

    @property
    def toolsets(self) -> dict[str, Mapping[str, Any]]:
        """The tables of toolsets, by name."""
        return dict(self.__pydantic_extra__ or {})

    @model_validator(mode="after")
    def _others_are_tables(self) -> Self:
        for name, value in self.toolsets.items():
            if not isinstance(value, Mapping):
                known = ", ".join(type(self).model_fields)
                raise ValueError(f"there is no setting {name!r} in [tools]; known are {known}")
        return self

"""How far a conversation of an agent with its model may go: as settings, agents and tasks say."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from meshwright.core.money import Dollars

MAX_STEPS = 500
MAX_REPEATS = 25


class Limits(BaseModel):
    """Limits of one `converse`: what is None has no limit here. An agent's come before those of the settings;
    a task's can only lower both.

    `max_steps` counts replies that call tools, `max_repeats` how often in a row the same calls may have the
    same results, `max_tokens` what its model reads and writes, `max_usd` what that costs, `max_seconds` the
    time that its model and tools take. At a limit the model is asked once for its answer, without tools.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_steps: int | None = Field(default=None, ge=1, le=100_000)
    max_repeats: int | None = Field(default=None, ge=2, le=100_000)
    max_tokens: int | None = Field(default=None, ge=1)
    max_usd: Dollars | None = None
    max_seconds: float | None = Field(default=None, gt=0)

"""How far a run of an agent may go with its model: as settings, agents and tasks say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from meshwright.core.docstrings import describe_fields
from meshwright.core.money import Dollars

MAX_STEPS = 500
MAX_REPEATS = 25
MAX_CALLS_PER_REPLY = 64
TIMEOUT_SECONDS = 300.0  # of a step: models that reason take minutes
MAX_TIMEOUT_SECONDS = 86_400
DEADLINE_SECONDS = 86_400.0  # of a task: a provider may be away for hours
MAX_DEADLINE_SECONDS = 604_800
LIMIT_EVENTS = {
    "max_steps": "limit.steps",
    "max_repeats": "limit.no_progress",
    "max_tokens": "limit.tokens",
    "max_usd": "limit.money",
    "max_seconds": "limit.time",
}
"""The event of each limit, which is published when a run reaches it."""


class Limits(BaseModel):
    """Limits of one run of a task. An agent's come before those of the settings; a task's can only lower
    both.

    They count over all conversations of the run. At a limit the model is asked once for its answer,
    without tools.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=describe_fields)

    max_steps: int | None = Field(default=None, ge=1, le=100_000)
    """Replies that call tools. None: no limit here."""
    max_repeats: int | None = Field(default=None, ge=2, le=100_000)
    """How often in a row the same calls of a conversation may have the same results. None: no limit here."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens that models read and write. None: no limit here."""
    max_usd: Dollars | None = None
    """US dollars that the calls of models cost. None: no limit here."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Seconds that models and tools take, added up if they run side by side. None: no limit here."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            max_steps: int | None = None,
            max_repeats: int | None = None,
            max_tokens: int | None = None,
            max_usd: Decimal | str | float | None = None,
            max_seconds: float | None = None,
        ) -> None: ...


_FIELDS = frozenset(
    {"model", "messages", "tools", "tool_choice", "temperature", "max_tokens", "max_completion_tokens"}
    | {"stream", "stream_options", "response_format", "user", "tags", "metadata", "cache", "input"}
    | {"n", "logprobs", "top_logprobs", "functions", "function_call"}
)
"""Parameters that a request has a field of its own for, or that its reply has no place for."""
_OPERATOR = re.compile(
    r"(api|aws|azure|vertex|oci|litellm|mock|langfuse|langsmith|client)_.*|.*_(key|token|secret|url|headers?)"
    r"|base_url|headers|client|organization|timeout|.*_timeout|num_retries|max_retries|.*fallbacks?|caching"
    r"|custom_llm_provider|model_(list|info)|guardrails|no-log|extra_(body|query)|drop_params|deployment_id"
)
"""Parameters that only the operator sets: where calls go, with which credentials, how errors are handled."""
_PROVIDERS = frozenset({"prompt_cache_key"})


def reserved_param(names: Iterable[str]) -> str | None:
    """The first of the names that no caller may pass to a provider; None where all may be."""
    return next((name for name in names if name in _FIELDS or _is_for_operators(name)), None)


def _is_for_operators(name: str) -> bool:
    return name not in _PROVIDERS and _OPERATOR.fullmatch(name) is not None

"""Parameters of model calls that go to the provider as they are: `params` of prompts, agents, clients."""

from __future__ import annotations

import re
from collections.abc import Iterable

_FIELDS = frozenset(
    {"model", "messages", "tools", "tool_choice", "temperature", "max_tokens", "max_completion_tokens"}
    | {"stream", "stream_options", "response_format", "user", "tags", "metadata", "cache", "input"}
    | {"n", "logprobs", "top_logprobs", "functions", "function_call"}
)
"""What a request has a field of its own for, or what its reply has no place for."""
_OPERATOR = re.compile(
    r"(api|aws|azure|vertex|oci|litellm|mock|langfuse|langsmith|client)_.*|.*_(key|token|secret|url|headers?)"
    r"|base_url|headers|client|organization|timeout|.*_timeout|num_retries|max_retries|.*fallbacks?|caching"
    r"|custom_llm_provider|model_(list|info)|guardrails|no-log|extra_(body|query)|drop_params|deployment_id"
)
"""What the operator alone says: where calls go, with which credentials, and what is done about errors."""
_PROVIDERS = frozenset({"prompt_cache_key"})


def reserved_param(names: Iterable[str]) -> str | None:
    """The first of the names that no caller may pass to a provider; None where all may be."""
    return next((name for name in names if name in _FIELDS or _is_for_operators(name)), None)


def _is_for_operators(name: str) -> bool:
    return name not in _PROVIDERS and _OPERATOR.fullmatch(name) is not None

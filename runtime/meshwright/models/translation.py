"""What LiteLLM's Router raises, in our words: by class, status and cause, as its text quotes the prompt."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from meshwright.errors import ModelError
from meshwright.models.faults import Fault, error_for, read_retry_after, reason_of, words_of
from meshwright.models.port import (
    AllProvidersDown,
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelRequest,
    ModelTimeout,
    ModelUnavailable,
)

SOURCE = "LiteLLM's Router"
MAX_CAUSES = 8


def translated(error: Exception, group: str, tags: Sequence[str]) -> ModelError:
    """Make our error of one that a call of a group met."""
    causes = list(causes_of(error))
    kinds = {kind.__name__ for cause in causes[:2] for kind in type(cause).__mro__}
    if "ContextWindowExceededError" in kinds:
        return ContextTooLong(f"The messages do not fit model {group!r}", remedy="Shorten the context")
    if "ContentPolicyViolationError" in kinds:
        return ContentRefused(f"The provider's policy forbids the request to model {group!r}")
    if kinds & {"RouterRateLimitError", "RouterRateLimitErrorBasic"}:
        what = f"All deployments of model {group!r} that fit tags {list(tags)} are cooling down"
        return AllProvidersDown(what, retry_after_seconds=getattr(error, "cooldown_time", None))
    if "UnsupportedParamsError" in kinds:  # LiteLLM's own, of what it knows of the model: nobody was asked
        words = words_of(str(getattr(error, "message", error)))
        return error_for(Fault(400, words), source=SOURCE, model=group)
    if "Timeout" in kinds:
        return ModelTimeout(f"No reply from model {group!r} in time")
    if unreachable := next((each for each in causes if is_of_a_connection(each)), None):
        return ModelUnavailable(
            f"No connection to the provider of model {group!r}: {reason_of(unreachable)}",
            remedy="Check the address (api_base) of its deployments",
        )
    return by_status(error, causes, group, tags)


def by_status(
    error: Exception, causes: Sequence[BaseException], group: str, tags: Sequence[str]
) -> ModelError:
    """Make our error by the status of the provider's reply, and its own words about it."""
    said = [getattr(each, "status_code", None) for each in causes]
    known = [status for status in said if isinstance(status, int) and status >= 400]
    if not known:
        return ModelRefused(
            f"{SOURCE} has no model {group!r} for tags {list(tags)} ({type(error).__name__})",
            remedy="Tag one deployment of the group with default, and check budgets and limits",
        )
    headers = getattr(error, "litellm_response_headers", None) or {}
    # The last is the provider's own: LiteLLM makes a 500 of what it does not know.
    fault = Fault(known[-1], provider_words(causes), read_retry_after(headers))
    return error_for(fault, source=SOURCE, model=group)


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, down to the socket's; of one in a stream, the one that ended it."""
    for _ in range(MAX_CAUSES):
        if error is None:
            return
        yield error
        error = getattr(error, "original_exception", None) or error.__cause__ or error.__context__


def is_of_a_connection(error: BaseException) -> bool:
    """Whether an error is the system's word for a connection that there is not."""
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, TimeoutError)


def provider_words(causes: Sequence[BaseException]) -> str:
    """The provider's own words, of the first error that still has its reply."""
    for each in causes:
        body: Any = getattr(each, "body", None)
        if isinstance(body, Mapping):
            return words_of({"error": body})
        try:
            text = from_json(str(getattr(each, "message", "")))
        except ValueError:
            continue
        if isinstance(text, Mapping):
            return words_of(text)
    return ""


def over_limit(group: str) -> AllProvidersDown:
    """The error for a group of which no deployment has a call left in this minute, which is the clock's."""
    return AllProvidersDown(
        f"All deployments of model {group!r} are at their limit (rpm, tpm)",
        retry_after_seconds=60 - time.time() % 60,
    )


def ended(errors: Sequence[ModelError], request: ModelRequest) -> ModelError:
    """The error of a call that nobody answered: the only one, or what it was with each that was asked."""
    if len(errors) == 1 or not any(each.retryable for each in errors):
        return errors[0]
    pauses = [each.retry_after_seconds for each in errors if each.retry_after_seconds is not None]
    down = AllProvidersDown(
        f"Neither model {request.model!r} nor its fallbacks answered: {'; '.join(map(str, errors))}",
        retry_after_seconds=min(pauses, default=None) if len(pauses) == len(errors) else None,
    )
    down.attempts = sum(each.attempts for each in errors)
    return down

"""What LiteLLM's Router raises, in our words: by class, status and cause; its own text quotes the prompt."""

from __future__ import annotations

import logging
import re
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
from meshwright.models.reasons import Discretion

logger = logging.getLogger("meshwright.models")
SOURCE = "LiteLLM's Router"
ADDED = re.compile(r"\s*(?:Traceback|\.? ?Received Model Group|LiteLLM Retried)")
OWN_FAILURES = (ImportError, TypeError, AttributeError, NameError, LookupError, AssertionError)
MAX_CAUSES = 8


def translated(error: Exception, group: str, request: ModelRequest, discretion: Discretion) -> ModelError:
    """Make our error of one that a call of a group met, and log what it was."""
    causes = list(causes_of(error))
    body = provider_body(causes)
    own = own_failure(causes) if body is None else None
    shown = discretion.shown(litellm_words(causes) if body is None and own is None else body, request)
    made = kind_of_error(error, causes, group, request.tags, shown)
    if own is not None and isinstance(made, ModelUnavailable | ModelRefused):
        made = failed_itself(own, group, discretion.shown(str(own), request), made)
        logger.warning("LiteLLM failed for model %r: %s", group, described(causes, request, discretion))
    else:
        logger.debug("LiteLLM raised for model %r: %s", group, described(causes, request, discretion))
    return made


def kind_of_error(
    error: Exception, causes: Sequence[BaseException], group: str, tags: Sequence[str], shown: str
) -> ModelError:
    """What an error is, in our words, with those of the provider that may be shown."""
    kinds = {kind.__name__ for cause in causes[:2] for kind in type(cause).__mro__}
    if "ContextWindowExceededError" in kinds:
        what = f"The messages do not fit model {group!r}{said(shown)}"
        return ContextTooLong(what, remedy="Shorten the context")
    if "ContentPolicyViolationError" in kinds:
        return ContentRefused(f"The provider's policy forbids the request to model {group!r}{said(shown)}")
    if kinds & {"RouterRateLimitError", "RouterRateLimitErrorBasic"}:
        what = f"All deployments of model {group!r} that fit tags {list(tags)} are cooling down"
        return AllProvidersDown(what, retry_after_seconds=getattr(error, "cooldown_time", None))
    if "UnsupportedParamsError" in kinds:  # LiteLLM's own, of what it knows of the model: nobody was asked
        words = words_of(str(getattr(error, "message", error)))
        return error_for(Fault(400, words, shown=shown), source=SOURCE, model=group)
    if "Timeout" in kinds:
        return ModelTimeout(f"No reply from model {group!r} in time")
    if unreachable := next((each for each in causes if is_of_a_connection(each)), None):
        return ModelUnavailable(
            f"No connection to the provider of model {group!r}: {reason_of(unreachable)}",
            remedy="Check the address (api_base) of its deployments",
        )
    return by_status(error, causes, group, tags, shown)


def by_status(
    error: Exception, causes: Sequence[BaseException], group: str, tags: Sequence[str], shown: str
) -> ModelError:
    """Make our error by the status of the provider's reply, and its own words about it."""
    said = [getattr(each, "status_code", None) for each in causes]
    known = [status for status in said if isinstance(status, int) and status >= 400]
    if not known:
        if not isinstance(error, ValueError):
            return ModelRefused(f"{SOURCE} raised {type(error).__name__} for a call of model {group!r}")
        return ModelRefused(
            f"{SOURCE} has no model {group!r} for tags {list(tags)} ({type(error).__name__})",
            remedy="Tag one deployment of the group with default, and check budgets and limits",
        )
    headers = getattr(error, "litellm_response_headers", None) or {}
    # The last is the provider's own: LiteLLM makes a 500 of what it does not know.
    fault = Fault(known[-1], words_of(provider_body(causes) or ""), read_retry_after(headers), shown)
    return error_for(fault, source=SOURCE, model=group)


def said(shown: str) -> str:
    """What goes behind our words for an error, where the provider said something."""
    return f"; it said: {shown}" if shown else ""


def own_failure(causes: Sequence[BaseException]) -> BaseException | None:
    """The fault of a program, of LiteLLM's or ours, that no provider's answer and no connection led to.

    What it met is last: LiteLLM makes a 500 of it.
    """
    if any(is_of_a_connection(each) for each in causes):
        return None
    return next((each for each in reversed(causes) if isinstance(each, OWN_FAILURES)), None)


def failed_itself(own: BaseException, group: str, shown: str, made: ModelError) -> ModelError:
    """The error for LiteLLM's own failure: only where it met it after an answer may another try end well."""
    what = f"LiteLLM failed by itself, in a call of model {group!r}, with {type(own).__name__}"
    remedy = "Install what this provider needs besides LiteLLM" if isinstance(own, ImportError) else ""
    kind = ModelUnavailable if made.retryable and not isinstance(own, ImportError) else ModelError
    return kind(f"{what}: {shown}" if shown else what, remedy=remedy)


def described(causes: Sequence[BaseException], request: ModelRequest, discretion: Discretion) -> str:
    """An error and its causes, each by class and module, with what they say as far as it may be shown."""

    def one(cause: BaseException) -> str:
        shown = discretion.shown(ADDED.split(str(cause))[0], request)
        return f"{type(cause).__module__}.{type(cause).__qualname__} ({shown})"

    return ", caused by ".join(map(one, causes))


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


def provider_body(causes: Sequence[BaseException]) -> Mapping[str, Any] | None:
    """What the provider said, of the first error that still has its reply."""
    for each in causes:
        body: Any = getattr(each, "body", None)
        if isinstance(body, Mapping):
            return {"error": body.get("error", body)}
        try:
            text = from_json(str(getattr(each, "message", "")))
        except ValueError:
            continue
        if isinstance(text, Mapping):
            return text
    return None


def litellm_words(causes: Sequence[BaseException]) -> str:
    """What LiteLLM says of an error by itself, without its traceback, and without what the Router adds."""
    told = [str(getattr(each, "message", each)) for each in causes if hasattr(each, "status_code")]
    return ADDED.split((told or [str(causes[0])])[-1])[0]


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

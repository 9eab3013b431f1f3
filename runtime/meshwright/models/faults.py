"""What a provider's error status means to us. Of its own words an error holds what `reasons` lets through:
they may quote the prompt, or a key."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from meshwright.errors import ModelError
from meshwright.models.port import (
    AllProvidersDown,
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    Part,
    RateLimited,
    Unauthorized,
    Unsupported,
)

_CONTEXT_SIGNS = (
    *("context_length_exceeded", "contextwindowexceeded", "context window", "context length"),
    *(
        "prompt is too long",
        "input is too long",
        "request too large",
        "request_too_large",
    ),  # Anthropic, Bedrock
)
_TOO_LARGE = 413
_POLICY_SIGNS = (
    "content_filter",
    "content_policy",
    "contentpolicyviolation",
    "content management policy",
    "responsibleaipolicyviolation",
)
_KEY_SIGNS = ("no_db_connection", "invalid_api_key", "auth_error")  # a proxy without a database says 400
_MAX_SEARCHED_CHARACTERS = 200  # of a message: further on it may quote the prompt, which can say anything
# Of a part of the request that a model does not take: that it does not, and which part it is.
_NOT_TAKEN = re.compile(
    r"not (?:\w+ )?support|n't (?:\w+ )?support|unsupported|unavailable|not (?:permitted|allowed|enabled)"
    r"|no endpoints found that support|not one of the allowed values|requires --enable-auto-tool-choice"
)
_TOOLS = re.compile(r"\btools?\b(?! choice|\[|\.)|\btool[ _-](?:use|call)|\bfunction[ _-]call|'functions'")
_FORMAT = re.compile(r"response[_ ](?:format|schema|mime)|json[_ ]schema|structured[_ ]output")
_PARAMETER = re.compile(r"unsupported[_ ]?param|not support param|tool[_ ]choice")
_MAY_NOT_TAKE = frozenset({400, 404, 422})
_TAKEN_BY_OTHERS = "Choose a group or tags whose models take it"
_CREDIT_SIGNS = ("insufficient_quota", "budget_exceeded", "credit balance")
# What a LiteLLM proxy says when all deployments of a group cool down, and of a provider out of its reach.
_CHAIN_SIGN = "error doing the fallback"
_DOWN_SIGNS = (_CHAIN_SIGN, "no deployments available", "no healthy deployment", "all providers unavailable")
_REACH_SIGNS = ("connection error", "cannot connect", "connection refused", "name or service not known")
_AGAIN = re.compile(r"try again in (\d+(?:\.\d+)?)")
_OVERLOADED = frozenset({409, 425, 529})
_STATUS_OF = {
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 529,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "timeout_error": 408,
    "invalid_request_error": 400,
}
"""The status that an error's type stands for, where it comes in a stream and has none."""


class Fault(NamedTuple):
    """An error reply: its status, the provider's own words to be searched, how long to wait where it said so,
    and its words as they may be shown."""

    status: int
    words: str = ""
    retry_after_seconds: float | None = None
    shown: str = ""

    def says(self, signs: tuple[str, ...]) -> bool:
        """Whether the provider used one of these words."""
        return any(sign in self.words for sign in signs)


def error_for(fault: Fault, *, source: str, model: str) -> ModelError:
    """Make the error for a fault; `source` says who answered, `model` is the group that was asked for."""
    error = _kind_of_error(fault, source, model)
    if fault.shown:
        error.message = f"{error.message}; it said: {fault.shown}"
        error.args = (error.message,)
    return error


def _kind_of_error(fault: Fault, source: str, model: str) -> ModelError:
    """What a fault is, in our words."""
    what = f"{source} answered {fault.status} to a call of model {model!r}"
    if (fault.status in (408, 429) or fault.status >= 500) and fault.says(_DOWN_SIGNS):
        return AllProvidersDown(f"{what}: none of its deployments is up", retry_after_seconds=_pause(fault))
    if fault.status in (401, 403) or (fault.status == 400 and fault.says(_KEY_SIGNS)):
        return Unauthorized(f"{what}: it refused the credentials", remedy="Check the key that is set for it")
    if fault.status == 429 and not fault.says(_CREDIT_SIGNS):
        return RateLimited(f"{what}: rate limit", retry_after_seconds=_pause(fault))
    if fault.status == 408:
        return ModelTimeout(what, retry_after_seconds=_pause(fault))
    if fault.status >= 500 or fault.status in _OVERLOADED:
        return _at_fault(fault, what)
    return _refusal(fault, what)


def _pause(fault: Fault) -> float | None:
    """How many seconds to wait, from the header or, where there is none, from a proxy's words."""
    said = _AGAIN.search(fault.words)
    return float(said[1]) if fault.retry_after_seconds is None and said else fault.retry_after_seconds


def _at_fault(fault: Fault, what: str) -> ModelUnavailable:
    """Make the error for a server that could not answer, or could not reach who would."""
    if fault.says(_REACH_SIGNS):
        return ModelUnavailable(
            f"{what}: it cannot reach the model's provider",
            remedy="Check the address (api_base) that it calls",
            retry_after_seconds=_pause(fault),
        )
    return ModelUnavailable(
        f"{what}: the server is at fault or overloaded", retry_after_seconds=_pause(fault)
    )


def _refusal(fault: Fault, what: str) -> ModelRefused:
    """Make the error for a request that would be rejected again."""
    error = _kind_of_refusal(fault, what)
    error.answered = 402 if type(error) is ModelRefused and fault.says(_CREDIT_SIGNS) else fault.status
    return error


def _kind_of_refusal(fault: Fault, what: str) -> ModelRefused:
    """What it was about a request that was rejected, in our words."""
    if fault.says(_CONTEXT_SIGNS) or fault.status == _TOO_LARGE:
        return ContextTooLong(f"{what}: the messages are too long", remedy="Shorten the context")
    if fault.says(_POLICY_SIGNS):
        return ContentRefused(f"{what}: the provider's policy forbids the request")
    if fault.says(_CREDIT_SIGNS):
        return ModelRefused(f"{what}: the account has no credit or budget left")
    if (part := _part_not_taken(fault)) is not None:
        told = f"it does not take {part or 'a parameter'}"
        return Unsupported(f"{what}: {told}", what=part, remedy=_TAKEN_BY_OTHERS)
    if fault.status == 404:
        return ModelRefused(f"{what}: not found", remedy="Check the name of the model and the base URL")
    if fault.status < 400:
        return ModelRefused(f"{what}: a redirect", remedy="Set the base URL to where it leads")
    remedy = "" if fault.shown else "The server's own log says why"
    return ModelRefused(f"{what}: it rejected the request", remedy=remedy)


def _part_not_taken(fault: Fault) -> Part | None:
    """The part of the request that the model does not take; None where the words do not say so.

    Where they name both it may be that the two are not taken together.
    """
    if fault.status not in _MAY_NOT_TAKE or not _NOT_TAKEN.search(fault.words):
        return None
    tools, shape = (bool(part.search(fault.words)) for part in (_TOOLS, _FORMAT))
    if tools != shape:
        return "tools" if tools else "response_format"
    return "" if tools or _PARAMETER.search(fault.words) else None


def words_of(body: Any) -> str:
    """The start of each of the provider's own words in an error body, in lower case, for searching."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    said = (
        [error.get(name) for name in ("type", "code", "param", "message")]
        if isinstance(error, Mapping)
        else [error]
    )
    texts = [str(words or "").lower() for words in said]
    failed = [_CHAIN_SIGN for text in texts if _CHAIN_SIGN in text]  # a LiteLLM proxy says it at the end
    return " ".join([*(text[:_MAX_SEARCHED_CHARACTERS] for text in texts), *failed])


def fault_in(body: Mapping[str, Any], shown: str = "") -> Fault:
    """The fault that a body of status 200 tells of: an error within a stream, or instead of a reply."""
    error = body["error"]
    said = [str(error.get(name)) for name in ("code", "status", "type")] if isinstance(error, Mapping) else []
    known = (int(each) if each.isdigit() else _STATUS_OF.get(each, 0) for each in said)
    return Fault(next((status for status in known if 400 <= status < 600), 502), words_of(body), shown=shown)


def reason_of(error: BaseException) -> str:
    """Why there is no connection, in the words of the system: `connection refused`."""
    if isinstance(error, ssl.SSLError):
        return "no trusted TLS connection"
    if not isinstance(error, OSError):
        return type(error).__name__
    known = error.errno is not None and error.errno > 0  # below are those of the look-up of names
    reason = os.strerror(error.errno or 0) if known else error.strerror or type(error).__name__
    return reason[:1].lower() + reason[1:]


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Read how many seconds to wait, from a number or a date; None where the provider did not say.

    OpenAI and Azure say it more exactly in milliseconds.
    """
    exact, text = (headers.get(name, "").strip() for name in ("retry-after-ms", "retry-after"))
    try:
        seconds = float(exact) / 1000 if exact.isdigit() else float(text)
    except ValueError:
        return _seconds_until(text)
    return seconds if 0 <= seconds < float("inf") else None


def _seconds_until(date: str) -> float | None:
    """The seconds until an HTTP date, 0 if it has passed; None for any other text."""
    try:
        when = parsedate_to_datetime(date)
    except ValueError:
        return None
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())

"""Classifies the errors of providers, and masks their words, which may quote a prompt or a key."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from meshwright.core.clock import MAX_ASKED_SECONDS
from meshwright.core.errors import ModelError
from meshwright.core.http_calls import retry_after
from meshwright.core.redaction import REDACTED, foreign_words
from meshwright.models.errors import (
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
from meshwright.models.port import ModelRequest

_LARGE_SIGNS = ("request too large", "request_too_large")
_CONTEXT_SIGNS = (
    *("context_length_exceeded", "contextwindowexceeded", "context window", "context length"),
    *("prompt is too long", "exceed context limit", "input is too long"),  # Anthropic, Bedrock
    *("exceed_context_size", "available context size"),  # llama.cpp
    *_LARGE_SIGNS,
)
_POLICY_SIGNS = (
    "content_filter",
    "content_policy",
    "contentpolicyviolation",
    "content management policy",
    "responsibleaipolicyviolation",
    *("requires moderation", "was flagged"),  # OpenRouter, with a 403
)
_TAG_SIGNS = ("not allowed to access model due to tags",)  # a LiteLLM proxy from 1.102, with a 401
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


class ProviderFault(NamedTuple):
    """An error reply: its status, the provider's own words to be searched, how long to wait where it said so,
    and its words as they may be shown, the `quotation`."""

    status: int
    words: str = ""
    retry_after_seconds: float | None = None
    quotation: str = ""

    def says(self, signs: tuple[str, ...]) -> bool:
        """Whether the provider used one of these words."""
        return any(sign in self.words for sign in signs)

    def is_of_server(self) -> bool:
        """Whether the server could not answer."""
        return self.status >= 500 or self.status in _OVERLOADED


FASTER = "Allow a step more time (timeout), or ask a faster model"
RECOVERS = "Wait until it recovers, or add a deployment to fall back to"
_LIMITED = "Wait, or raise the limit there"
_REJECTED = "Change what it names, or ask another model"
_TOO_LONG = (ContextTooLong, ": the messages are too long", "Shorten the context")
_KINDS: tuple[tuple[Callable[[ProviderFault], bool], type[ModelError], str, str], ...] = (
    (
        lambda fault: (fault.status in (408, 429) or fault.status >= 500) and fault.says(_DOWN_SIGNS),
        AllProvidersDown,
        ": none of its deployments is up",
        "Wait until one is, or repair them there",
    ),
    (
        lambda fault: fault.says(_TAG_SIGNS),
        ModelRefused,
        ": none of its deployments has these tags together",
        "Choose tags that one deployment there has, or set tag_filtering_match_any",
    ),
    (
        lambda fault: (
            fault.status == 401
            or (fault.status == 403 and not fault.says(_POLICY_SIGNS))
            or (fault.status == 400 and fault.says(_KEY_SIGNS))
        ),
        Unauthorized,
        ": it refused the credentials",
        "Check the key that is set for it",
    ),
    # Over the limit of a whole minute.
    (lambda fault: fault.status == 429 and fault.says(_LARGE_SIGNS), *_TOO_LONG),
    (
        lambda fault: fault.status == 429 and not fault.says(_CREDIT_SIGNS),
        RateLimited,
        ": rate limit",
        _LIMITED,
    ),
    (lambda fault: fault.status == 408, ModelTimeout, ": it took too long", FASTER),
    (
        lambda fault: fault.is_of_server() and fault.says(_REACH_SIGNS),
        ModelUnavailable,
        ": it cannot reach the model's provider",
        "Check the address (api_base) that it calls",
    ),
    (ProviderFault.is_of_server, ModelUnavailable, ": the server is at fault or overloaded", RECOVERS),
    (lambda fault: fault.says(_CONTEXT_SIGNS) or fault.status == 413, *_TOO_LONG),
    (
        lambda fault: fault.says(_POLICY_SIGNS),
        ContentRefused,
        ": the provider's policy forbids the request",
        "Change the request, or ask a model under another policy",
    ),
    (
        lambda fault: fault.status == 402 or fault.says(_CREDIT_SIGNS),
        ModelRefused,
        ": the account has no credit or budget left",
        "Add credit there, raise the limit of its budget, or name another model",
    ),
    (lambda fault: _part_not_taken(fault) is not None, Unsupported, ": it does not take ", _TAKEN_BY_OTHERS),
    (
        lambda fault: fault.status == 404,
        ModelRefused,
        ": not found",
        "Check the name of the model and the base URL",
    ),
    (lambda fault: fault.status < 400, ModelRefused, ": a redirect", "Set the base URL to where it leads"),
    (lambda fault: bool(fault.quotation), ModelRefused, ": it rejected the request", _REJECTED),
    (
        lambda fault: True,
        ModelRefused,
        ": it rejected the request and gave no reason",
        "Look into the log of that server",
    ),
)
"""The error of each fault, and its remedy; the first that fits counts."""


def error_for(fault: ProviderFault, *, source: str, model: str) -> ModelError:
    """Make the error for a fault; `source` says who answered, `model` is the group that was asked for."""
    _, kind, ending, remedy = next(rule for rule in _KINDS if rule[0](fault))
    part = _part_not_taken(fault) if kind is Unsupported else None
    what = f"{source} answered {fault.status} to a call of model {model!r}{ending}"
    what += (part or "a parameter") if kind is Unsupported else ""
    error = kind(f"{what}; it said: {fault.quotation}" if fault.quotation else what, remedy=remedy)
    if isinstance(error, Unsupported):
        error.what = part or ""
    error.reason = fault.quotation
    error.answered = 402 if kind is ModelRefused and fault.says(_CREDIT_SIGNS) else fault.status
    if kind.retryable:  # the header, or where there is none a proxy's words
        waits = _AGAIN.search(fault.words) if fault.retry_after_seconds is None else None
        words = min(float(waits[1]), MAX_ASKED_SECONDS) if waits else None
        error.retry_after_seconds = fault.retry_after_seconds if words is None else words
    return error


def _part_not_taken(fault: ProviderFault) -> Part | None:
    """The part of the request that the model does not take; None where the words do not say so.

    If they name both, it may not take the two together.
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
    fields = (
        [error.get(name) for name in ("type", "code", "param", "message")]
        if isinstance(error, Mapping)
        else [error]
    )
    texts = [str(words or "").lower() for words in fields]
    failed = [_CHAIN_SIGN for text in texts if _CHAIN_SIGN in text]  # a LiteLLM proxy says it at the end
    return " ".join([*(text[:_MAX_SEARCHED_CHARACTERS] for text in texts), *failed])


def fault_in(body: Mapping[str, Any], quotation: str = "") -> ProviderFault:
    """The fault that a body of status 200 tells of: an error within a stream, or instead of a reply."""
    error = body["error"]
    codes = (
        [str(error.get(name)) for name in ("code", "status", "type")] if isinstance(error, Mapping) else []
    )
    statuses = (int(word) if re.fullmatch("[0-9]{3}", word) else _STATUS_OF.get(word, 0) for word in codes)
    return ProviderFault(
        next((status for status in statuses if 400 <= status < 600), 502), words_of(body), quotation=quotation
    )


def reason_of(error: BaseException) -> str:
    """Why there is no connection, in the words of the system: `connection refused`."""
    if isinstance(error, ssl.SSLError):
        return "no trusted TLS connection"
    if not isinstance(error, OSError):
        return type(error).__name__
    has_number = error.errno is not None and error.errno > 0  # negative ones come from the look-up of names
    reason = os.strerror(error.errno or 0) if has_number else error.strerror or type(error).__name__
    return reason[:1].lower() + reason[1:]


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Read how many seconds to wait, from a number or a date; None where the provider did not say.

    OpenAI and Azure say it more exactly in milliseconds. At most MAX_ASKED_SECONDS.
    """
    exact = headers.get("retry-after-ms", "").strip()
    if exact.isdecimal():
        return min(float(exact) / 1000, MAX_ASKED_SECONDS)
    return retry_after(headers, dates=True)


# What may be shown

_MAX_READ = 800  # of what a provider says; a mark stands for as much as it hides
_MIN_SECRET = 6  # shorter ones are none, but placeholders as "none"
_SECRET_OVERLAP = 8
_PROMPT_OVERLAP = 16  # letters and digits in a row that both have: fewer are words that everybody uses
_MIN_MESSAGE = 4
_PROMPT = "[...]"
_SECRET_NAME = re.compile(r"key|token|secret|password|credential|authorization|header", re.IGNORECASE)
_TAGS = re.compile(r"(?is)<(script|style)\b.*?</\1>|<[^<>]{0,500}>")
_ESCAPE = re.compile(r"\\+u([0-9a-fA-F]{4})")
_UNPRINTED = re.compile(r"(?:\\+[nrt]|\s|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff])+")
_NO_LETTER = re.compile(r"[\W_]+")
_TELLING = re.compile(r"(?=\S*\d)\w[\w@.+-]{2,}\w")  # an address, an id, a password: by a digit in it


class Discretion:
    """Masks secrets and the texts of requests in the errors of calls."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted(
            {secret for secret in secrets if len(secret) >= _MIN_SECRET}, key=len, reverse=True
        )

    def shown(self, body: Any, request: ModelRequest | None = None) -> str:
        """The words of a provider as one line of at most 300 characters; "" where there are none."""
        text = unquote(_ESCAPE.sub(_unescaped, _words(body)[:_MAX_READ]))
        text = _UNPRINTED.sub(" ", _TAGS.sub(" ", text)).encode(errors="replace").decode()
        for secret in self._secrets:  # whole ones first: they may have an end in common
            text = text.replace(secret, REDACTED)
        for secret in self._secrets:
            text = _without(text, secret, REDACTED, _SECRET_OVERLAP)
        for message in request.messages if request else ():
            for part in (message.text, *(call.arguments for call in message.tool_calls)):
                text = _without(text, _ESCAPE.sub(_unescaped, part), _PROMPT, _PROMPT_OVERLAP)
                text = _TELLING.sub(_marked(part), text)
        return foreign_words(text)


def secrets_in(values: Any, name: str = "") -> Iterator[str]:
    """The texts in a configuration or an environment that stand under a name of a secret."""
    if isinstance(values, str):
        if _SECRET_NAME.search(name):
            yield values.removeprefix("Bearer ")
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from secrets_in(value, f"{name} {key}")
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from secrets_in(value, name)


def _words(body: Any) -> str:
    """An error body's type, code and message; any other as it stands. A number repeats the status."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    if not isinstance(error, Mapping):
        return str(error or "")
    texts = [str(error[name]) for name in ("type", "code", "message", "detail") if error.get(name)]
    return ": ".join(dict.fromkeys(words for words in texts if not words.isdigit()))


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))


def _marked(source: str) -> Callable[[re.Match[str]], str]:
    return lambda match: _PROMPT if match[0] in source else match[0]


def _without(text: str, source: str, mark: str, overlap: int) -> str:
    """The text without what the source says as well, however both are quoted, cased and spaced.

    That is a run of so many letters and digits, or all that the source has where those are fewer.
    """
    squeezed = _NO_LETTER.sub("", source.casefold())
    size = min(overlap, len(squeezed))
    if size < _MIN_MESSAGE:
        return text
    places = [(place, low) for place, letter in enumerate(text) for low in letter.casefold() if low.isalnum()]
    hidden: list[tuple[int, int]] = []
    for start in _common("".join(low for _, low in places), squeezed, size):
        first, last = places[start][0], places[start + size - 1][0] + 1
        if hidden and first <= hidden[-1][1]:
            hidden[-1] = (hidden[-1][0], last)
        else:
            hidden.append((first, last))
    for first, last in reversed(hidden):
        text = f"{text[:first]}{mark}{text[last:]}"
    return text


def _common(letters: str, source: str, size: int) -> Iterator[int]:
    """The beginnings of the runs of that size that the source has too; it may be a megabyte."""
    half = size // 2  # of the source's parts of half the size, every run has one whole
    parts = {source[place : place + half] for place in range(0, len(source), half)}
    near = {place for place in range(len(letters)) if letters[place : place + half] in parts}
    for start in range(len(letters) - size + 1):
        if not near.isdisjoint(range(start, start + half + 1)) and letters[start : start + size] in source:
            yield start

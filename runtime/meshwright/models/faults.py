"""Classifies the errors of providers, and masks their words, which may quote a prompt or a key."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import unquote

from pydantic_core import from_json

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

_CONTEXT = re.compile(
    r"context_length_exceeded|contextwindowexceeded|context (?:window|length|size)|exceed_context_size"
    r"|exceed context limit|model_context_window_exceeded|max_prompt_tokens_exceeded|tokens_limit_reached"
    r"|prompt (?:is |was )?too long|input is too long|request too large|request_too_large"
    r"|too large for model with|maximum (?:prompt length|model length|allowed input length)"
    r"|input token count .*exceeds|exceeds (?:the )?max(?:imum allowed| limit of [\d,]+) token"
    r"|prompt token count of \d+ exceeds|tokens in the prompt exceeds|prompt exceeds max length"
    r"|exceeded model token limit|more than max tokens allowed|range of input length should be"
    r"|`inputs` (?:tokens|must have)|reduce the length of the|cannot truncate prompt|prompt sequence length"
)
_TOO_LARGE_FOR_A_MINUTE = re.compile(r"request[ _]too[ _]large|long context requests")  # with a 429
_POLICY = re.compile(
    r"content_filter|content_policy|contentpolicyviolation|content management policy|content filtering policy"
    r"|responsibleaipolicyviolation|violating our usage policy|violates usage guidelines|prohibited content"
    r"|requires moderation|was flagged|content exists risk|data_inspection_failed|inappropriate content"
)
_NO_TAGS = re.compile("not allowed to access model due to tags")  # a LiteLLM proxy from 1.102, with a 401
# With a 400: of a proxy without a database, of Gemini and of xAI.
_KEY = re.compile(
    r"no_db_connection|invalid_api_key|auth_error|api key not valid|(?:incorrect|invalid) api key"
)
_CREDIT = re.compile(
    r"insufficient_(?:user_)?quota|exceeded_current_quota|budget_exceeded|budget has been exceeded"
    r"|exceededbudget|credit balance|insufficient[ _](?:balance|credits?)|api usage limits"
    r"|billing_hard_limit|billing_not_active|arrearage"
)
_LIMIT_OF_MONEY = re.compile("credit limit|spending limit|all available credits")
_MAY_QUOTE = frozenset({400, 404, 422})  # the prompt, which may be about money itself
_NO_SUCH_MODEL = re.compile(  # with a 400
    r"model_not_found|invalid_model|invalid model|model not exist|not a valid model|model_decommissioned"
    r"|model identifier is invalid|unknown model"
)
_MAX_SEARCHED_CHARACTERS = 200  # of a message: further on it may quote the prompt, which can say anything
# Of a part of the request that a model does not take: that it does not, and which part it is.
_NOT_TAKEN = re.compile(
    r"not (?:\w+ )?support|n't (?:\w+ )?support|unsupported|unavailable|not (?:permitted|allowed|enabled)"
    r"|no endpoints found that support|not one of the allowed values"
    r"|requires --(?:enable-auto-tool-choice|jinja)"
)
_TOOLS = re.compile(r"\btools?\b(?! choice|\[|\.)|\btool[ _-](?:use|call)|\bfunction[ _-]call|'functions'")
_FORMAT = re.compile(r"response[_ ](?:format|schema|mime)|json[_ ]schema|structured[_ ]output")
_PARAMETER = re.compile(r"unsupported[_ ]?param|not support param|tool[_ ]choice")
_MAY_NOT_TAKE = frozenset({400, 404, 422, 500})  # llama.cpp answers 500
_TAKEN_BY_OTHERS = "Choose a group or tags whose models take it"
# What a LiteLLM proxy says when all deployments of a group cool down, and of a provider out of its reach.
_CHAIN_SIGN = "error doing the fallback"
_DOWN = re.compile(
    f"{_CHAIN_SIGN}|no deployments available|no healthy deployment|all providers unavailable", re.IGNORECASE
)
_REACH = re.compile("connection error|cannot connect|connection refused|name or service not known")
_AGAIN = re.compile(
    r"(?:try again|retry) (?:in|after) (?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?) ?(ms)?)?"
)  # 1.5s, 120ms, 9m38.016s, 7 seconds
_OVERLOADED = frozenset({409, 424, 425, 529})  # TGI answers 424 where it failed while it wrote
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

    def says(self, signs: re.Pattern[str]) -> bool:
        """Whether the provider used one of these words."""
        return signs.search(self.words) is not None

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
        lambda fault: (fault.status in (408, 429) or fault.status >= 500) and fault.says(_DOWN),
        AllProvidersDown,
        ": none of its deployments is up",
        "Wait until one is, or repair them there",
    ),
    (
        lambda fault: fault.says(_NO_TAGS),
        ModelRefused,
        ": none of its deployments has these tags together",
        "Choose tags that one deployment there has, or set tag_filtering_match_any",
    ),
    (
        lambda fault: _has_no_credit(fault),
        ModelRefused,
        ": the account has no credit or budget left",
        "Add credit there, raise the limit of its budget, or name another model",
    ),
    (lambda fault: _is_too_long(fault), *_TOO_LONG),
    (
        lambda fault: (
            fault.status == 401
            or (fault.status == 403 and not fault.says(_POLICY))
            or (fault.status == 400 and fault.says(_KEY))
        ),
        Unauthorized,
        ": it refused the credentials",
        "Check the key that is set for it",
    ),
    (lambda fault: fault.status == 429, RateLimited, ": rate limit", _LIMITED),
    (lambda fault: fault.status == 408, ModelTimeout, ": it took too long", FASTER),
    (lambda fault: _part_not_taken(fault) is not None, Unsupported, ": it does not take ", _TAKEN_BY_OTHERS),
    (
        lambda fault: fault.is_of_server() and fault.says(_REACH),
        ModelUnavailable,
        ": it cannot reach the model's provider",
        "Check the address (api_base) that it calls",
    ),
    (ProviderFault.is_of_server, ModelUnavailable, ": the server is at fault or overloaded", RECOVERS),
    (
        lambda fault: fault.says(_POLICY),
        ContentRefused,
        ": the provider's policy forbids the request",
        "Change the request, or ask a model under another policy",
    ),
    (
        lambda fault: _has_no_model(fault),
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
    error.answered = fault.status
    if kind is ModelRefused:  # what a person, or another deployment, may mend counts by its usual status
        error.answered = 402 if _has_no_credit(fault) else 404 if _has_no_model(fault) else fault.status
    if kind.retryable:
        header = fault.retry_after_seconds
        error.retry_after_seconds = _seconds_in(fault.words) if header is None else header
    return error


def _has_no_credit(fault: ProviderFault) -> bool:
    is_limit = fault.status not in _MAY_QUOTE and fault.says(_LIMIT_OF_MONEY)
    return fault.status == 402 or is_limit or fault.says(_CREDIT)


def _has_no_model(fault: ProviderFault) -> bool:
    return fault.status == 404 or (fault.status in (400, 422) and fault.says(_NO_SUCH_MODEL))


def _is_too_long(fault: ProviderFault) -> bool:
    """Whether the context is full; servers answer 403 or 500 too, and 429 to more than a minute may have."""
    if fault.status == 429:
        return fault.says(_TOO_LARGE_FOR_A_MINUTE)
    return fault.status == 413 or (fault.status not in (401, 408) and fault.says(_CONTEXT))


def _seconds_in(words: str) -> float | None:
    """How long to wait by the words of an error without the header; None where they do not say."""
    match = _AGAIN.search(words)
    if match is None or not any(match.groups()):
        return None
    hours, minutes, seconds, is_milli = match.groups()
    wait = 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds or 0) / (1000 if is_milli else 1)
    return min(wait, MAX_ASKED_SECONDS)


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


def provider_words(body: Any) -> str:
    """The start of each of the provider's own words in an error body, in lower case, for searching."""
    texts = [text.lower() for _, text in _said_in(body)]
    failed = [_CHAIN_SIGN for text in texts if _CHAIN_SIGN in text]  # a LiteLLM proxy says it at the end
    return " ".join([*(text[:_MAX_SEARCHED_CHARACTERS] for text in texts), *failed])


def _said_in(body: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """The words of an error body in any of the shapes that are in use, each with the name of its field.

    OpenRouter has the body of the provider behind it in `raw`.
    """
    body = _unlisted(body)
    if not isinstance(body, Mapping):
        yield "message", str(body or "")
        return
    error = body.get("error")
    if isinstance(error, Mapping):
        fields, metadata = error, error.get("metadata")
    else:
        fields, metadata = {"type": body.get("error_type"), **body, "error": error}, None
    for name in ("type", "code", "param", "error", "message", "detail"):
        if fields.get(name) and not (name == "error" and isinstance(fields[name], Mapping)):
            yield name, str(fields[name])
    raw = metadata.get("raw") if isinstance(metadata, Mapping) and depth == 0 else None
    if isinstance(raw, Mapping):  # as OpenRouter's own client has it
        raw = raw.get("data")
    if isinstance(raw, str):
        with suppress(ValueError):
            raw = from_json(raw)
        yield from _said_in(raw, depth + 1)


def is_error(body: Any) -> bool:
    """Whether a body of status 200 is an error: within a stream, or instead of a reply."""
    if isinstance(body, list):
        body = _unlisted(body)
    return isinstance(body, dict) and bool(body.get("error") or body.get("object") == "error")


def fault_in(body: Any, quotation: str = "") -> ProviderFault:
    """The fault that a body of status 200 tells of."""
    body = _unlisted(body)
    error = body.get("error")
    fields = error if isinstance(error, Mapping) else body
    codes = [str(fields.get(name)) for name in ("code", "status")]
    statuses = [int(code) for code in codes if re.fullmatch("[0-9]{3}", code)]
    statuses += [_STATUS_OF.get(str(fields.get(name)), 0) for name in ("type", "code")]
    return ProviderFault(
        next((status for status in statuses if 400 <= status < 600), 502),
        provider_words(body),
        quotation=quotation,
    )


def _unlisted(body: Any) -> Any:
    """Gemini's OpenAI address sends the error in a list."""
    return body[0] if isinstance(body, list) and body and isinstance(body[0], Mapping) else body


def connection_reason(error: BaseException) -> str:
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
    texts = [text for name, text in _said_in(body) if name != "param"]
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

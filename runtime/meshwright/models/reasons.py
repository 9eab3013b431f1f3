"""What a provider says of an error, fit to be shown: no key, nothing of the request's own text, one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from meshwright.models.port import ModelRequest
from meshwright.redaction import REDACTED, redact

_MAX_CHARACTERS = 300
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
    """What errors of calls may not show: these secrets, and what each request says."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted({each for each in secrets if len(each) >= _MIN_SECRET}, key=len, reverse=True)

    def shown(self, said: Any, request: ModelRequest | None = None) -> str:
        """What a provider said, as one line of at most 300 characters; "" where that is nothing."""
        text = unquote(_ESCAPE.sub(_unescaped, _words(said)[:_MAX_READ]))
        text = _UNPRINTED.sub(" ", _TAGS.sub(" ", text)).encode(errors="replace").decode()
        for secret in self._secrets:  # whole ones first: they may have an end in common
            text = text.replace(secret, REDACTED)
        for secret in self._secrets:
            text = _without(text, secret, REDACTED, _SECRET_OVERLAP)
        for message in request.messages if request else ():
            for part in (message.content, *(call.arguments for call in message.tool_calls)):
                text = _without(text, _ESCAPE.sub(_unescaped, part), _PROMPT, _PROMPT_OVERLAP)
                text = _TELLING.sub(_marked(part), text)
        text = redact(text).strip()
        return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1].rstrip()}…"


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


def _words(said: Any) -> str:
    """An error body's type, code and message; any other as it stands."""
    error = said.get("error", said) if isinstance(said, Mapping) else said
    if not isinstance(error, Mapping):
        return str(error or "")
    known = [str(error[name]) for name in ("type", "code", "message", "detail") if error.get(name)]
    return ": ".join(dict.fromkeys(known))


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
    places = [(place, low) for place, each in enumerate(text) for low in each.casefold() if low.isalnum()]
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
    """Where a run of that size begins that the source has too; the source may be a megabyte."""
    half = size // 2  # of the source's parts of half the size, every run has one whole
    parts = {source[place : place + half] for place in range(0, len(source), half)}
    near = {place for place in range(len(letters)) if letters[place : place + half] in parts}
    for start in range(len(letters) - size + 1):
        if not near.isdisjoint(range(start, start + half + 1)) and letters[start : start + size] in source:
            yield start

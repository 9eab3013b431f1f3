"""How many tokens a text is, near enough to budget with, for any model and without its vocabulary.

Against two common vocabularies the count is 0.99 to 1.09 of the true one for English prose, code and JSON,
0.75 to 1.05 for German, and 1.05 to 1.6 for Chinese and Japanese: where it is wrong it mostly says too many.
A megabyte takes about 45 ms: what is counted on the event loop must have a size limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from itertools import islice

# A token is about: a word, or eight letters of a long one; three digits; a run of punctuation or of white
# space; one character of a script that writes without spaces.
_PIECE = re.compile(r" ?[A-Za-z]{1,8}[À-ɏ]?| ?[Ͱ-֏]{1,5}|\d{1,3}| ?[^\w\s]{1,3}|\s+|\w")
ELLIPSIS = "…"


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text; never more than its characters."""
    return len(_PIECE.findall(text))


def clip(text: str, max_tokens: int) -> str:
    """The text, or as much of its start as fits in that many tokens, an ellipsis included."""
    if len(text) <= max_tokens:
        return text
    ends = [piece.end() for piece in islice(_PIECE.finditer(text), max_tokens + 1)]
    if len(ends) <= max_tokens:
        return text
    return text[: ends[max_tokens - 2]] + ELLIPSIS if max_tokens > 1 else ELLIPSIS[:max_tokens]


SUFFIX = re.compile(r"(?<=..)(?:'s|ations?|ions?|ments?|ies|ied|ing|ed|es|s|ly|e|y)$")


def stem(word: str) -> str:
    """A word in lower case without its inflection: `uses`, `used` and `using` give what `use` gives."""
    base = SUFFIX.sub("", word.lower())
    return base[:-1] if len(base) > 3 and base[-1] == base[-2] else base


def forms(words: Iterable[str]) -> frozenset[str]:
    """The words, and their stems."""
    lower = {word.lower() for word in words}
    return frozenset(lower | {stem(word) for word in lower})


def is_form_of(word: str, known_forms: frozenset[str]) -> bool:
    """Whether a word is one of those whose `forms` are known, or an inflection of one."""
    return word.lower() in known_forms or stem(word) in known_forms


@cache
def function_words() -> frozenset[str]:
    """The words that only hold a sentence together."""
    return _listed("function_words.txt")


@cache
def common_forms() -> frozenset[str]:
    """The forms of the common words of English, and of software at large."""
    return forms(function_words() | _listed("common_words.txt"))


@cache
def other_languages() -> tuple[frozenset[str], ...]:
    """The words that hold sentences together, of each language but English."""
    text = resources.files("meshwright.context").joinpath("other_words.txt").read_text("utf-8")
    return tuple(frozenset(line.split()[1:]) for line in text.splitlines())


def _listed(name: str) -> frozenset[str]:
    return frozenset(resources.files("meshwright.context").joinpath(name).read_text().split())

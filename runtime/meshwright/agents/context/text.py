"""How many tokens a text is, near enough to budget with, for any model and without its vocabulary.

Against two common vocabularies the count is 0.99 to 1.09 of the true one for English prose, code and JSON,
0.75 to 1.05 for German, and 1.05 to 1.6 for Chinese and Japanese: where it is wrong it mostly says too many.
A megabyte takes about 45 ms: what is counted on the event loop must have a size limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import cache
from importlib import resources
from itertools import islice
from typing import Protocol, TypeVar
from unicodedata import combining, normalize

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


def matches_form(word: str, known_forms: frozenset[str]) -> bool:
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
    text = resources.files("meshwright.agents.context").joinpath("other_words.txt").read_text("utf-8")
    return tuple(frozenset(line.split()[1:]) for line in text.splitlines())


def _listed(name: str) -> frozenset[str]:
    return frozenset(resources.files("meshwright.agents.context").joinpath(name).read_text().split())


MAX_QUERY_CHARS = 16_000
_MAX_QUERY_WORDS = 24  # the first distinct ones: more would search for ever longer and find no better
_LANGUAGE_WORDS = 2  # so many function words tell a language: one alone may be any word of another
_NEAR_DUPLICATE = 0.8  # of two memories' words in common, from which on the less relevant one is dropped
_REPEATED = 0.8  # of a text's shingles that stand in another, from which on it says nothing new
_SHINGLE = 3  # words
_COMMON, _NAME = 0.4, 2.0  # what a common word, and a name or a number, weigh beside 1 for any other
_RELATED = 4  # letters that the stems of two forms of a word share at least
_WORD = re.compile(r"[^\W_]+")
_SPACELESS = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+")
"""A run of letters of a script that writes without spaces: a search goes by its pairs of letters."""


class _Text(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> int: ...


TextT = TypeVar("TextT", bound=_Text)


def query_words(text: str) -> list[str]:
    """The words of a text that a search can go by, in order, each once; pairs of letters without spaces."""
    words = dict.fromkeys(_terms(text[:MAX_QUERY_CHARS].lower()))
    ignored = function_words() | _held_together_by(words.keys())
    telling = [word for word in words if word not in ignored and (len(word) > 1 or not word.isascii())]
    return telling[:_MAX_QUERY_WORDS]


def _held_together_by(words: Set[str]) -> frozenset[str]:
    """The function words of the language that a text is most likely in."""
    most = max((function_words(), *other_languages()), key=lambda language: len(language & words))
    return most if len(most & words) >= _LANGUAGE_WORDS else frozenset()


def is_spaceless(word: str) -> bool:
    """Whether a word is a pair of letters of a script that writes without spaces."""
    return _SPACELESS.fullmatch(word) is not None


def _terms(text: str) -> Iterator[str]:
    yield from _WORD.findall(_SPACELESS.sub(" ", text))
    for run in _SPACELESS.findall(text):
        yield from (run[start : start + 2] for start in range(max(1, len(run) - 1)))


def coverage(query: str, text: str) -> float:
    """The share of a query's words that a text has in some form, 0 to 1.

    Common words weigh less, and names and numbers more: a question about a stranger is about nothing known.
    """
    names = _names(query)
    stems = {_stem(word) for word in _WORD.findall(text)}
    covered = total = 0.0
    for word in query_words(query):
        weight = _COMMON if matches_form(word, common_forms()) else 1.0
        weight *= _NAME if word in names else 1.0
        total += weight
        if word in text if is_spaceless(word) else any(_are_related(_stem(word), other) for other in stems):
            covered += weight
    return covered / total if total else 0.0


def _stem(word: str) -> str:
    """The stem of a word without its accents: the plural of a German noun may have them alone."""
    return stem("".join(char for char in normalize("NFKD", word) if not combining(char)))


def _names(query: str) -> set[str]:
    words = _WORD.findall(query[:MAX_QUERY_CHARS])
    capital = {word for word in words[1:] if word[0].isupper()}
    return {word.lower() for word in words if word in capital or any(map(str.isdigit, word))}


def _are_related(stem: str, other: str) -> bool:
    if stem == other:
        return True
    shorter = min(len(stem), len(other))
    return shorter >= _RELATED and stem[:shorter] == other[:shorter]


def is_repeat(text: str, of: str) -> bool:
    """Whether a text says nearly nothing beyond another. One with another number says something new."""
    words, other_words = _WORD.findall(text.lower()), _WORD.findall(of.lower())
    if any(word not in other_words for word in words if not word.isalpha()):
        return False
    shingles = _shingles(words)
    return len(shingles & _shingles(other_words)) >= _REPEATED * len(shingles)


def _shingles(words: Sequence[str]) -> set[tuple[str, ...]]:
    size = min(_SHINGLE, len(words))
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def distinct(items: Iterable[TextT]) -> Iterator[TextT]:
    """The items, without repeats: nearly the same words with the same numbers as an earlier item."""
    earlier: list[set[str]] = []
    for item in items:
        words = set(_WORD.findall(item.text.lower()))
        if not any(_are_near(words, other) for other in earlier):
            earlier.append(words)
            yield item


def _are_near(words: set[str], other: set[str]) -> bool:
    differ = words ^ other
    near = len(words & other) >= _NEAR_DUPLICATE * len(words | other)
    return near and all(word.isalpha() for word in differ)


def within_budget(items: Iterable[TextT], max_tokens: int) -> Iterator[TextT]:
    """The first items that fit in so many tokens together; an item above that limit is passed over."""
    remaining = max_tokens
    for item in items:
        tokens = item.tokens
        if tokens > max_tokens:
            continue
        remaining -= tokens
        if remaining < 0:
            return
        yield item

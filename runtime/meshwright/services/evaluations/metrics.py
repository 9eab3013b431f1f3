"""Metrics of answers, without a model: pure functions of texts, and how far two raters agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from statistics import fmean

from meshwright.context.check import Original
from meshwright.core.errors import InvalidInput
from meshwright.core.plugins import install_command

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_VOWELS = re.compile(r"[aeiouy]+")
_MAX_SENTENCE = 500  # characters: VADER's time grows with the square of a text, 54,000 took half a minute


def length(text: str) -> float:
    """How many words a text has."""
    return float(len(text.split()))


def readability(text: str) -> float | None:
    """Flesch's reading ease of an English text: about 100 is very easy, 30 is hard. None without a word."""
    words = _WORD.findall(text)
    if not words:
        return None
    sentences = sum(1 for part in _SENTENCE_END.split(text) if _WORD.search(part))
    syllables = sum(map(_syllables, words))
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)


def _syllables(word: str) -> int:
    lower = word.lower()
    count = len(_VOWELS.findall(lower))
    is_silent = lower.endswith("e") and not lower.endswith(("le", "ee")) and count > 1
    return max(1, count - is_silent)


def sentiment(text: str) -> float | None:
    """The mean sentiment of a text's sentences by VADER, an English lexicon of 2014, from -1 to 1.

    0 where it knows no word; of another language the figure means nothing. None without a sentence. Raises
    InvalidInput where VADER is not installed.
    """
    score = sentence_sentiment()
    sentences = [part for part in _SENTENCE_END.split(text) if _WORD.search(part)]
    pieces = [
        part[at : at + _MAX_SENTENCE] for part in sentences for at in range(0, len(part), _MAX_SENTENCE)
    ]
    return fmean(map(score, pieces)) if pieces else None


@cache
def sentence_sentiment() -> Callable[[str], float]:
    """VADER's compound score of a sentence. Raises InvalidInput where it is not installed."""
    try:
        vader = import_module("vaderSentiment.vaderSentiment")
    except ImportError:
        remedy = install_command("sentiment")
        problem = "The metric 'sentiment' takes the package vaderSentiment, which is not installed"
        raise InvalidInput(problem, remedy=remedy, field="metrics") from None
    analyzer = vader.SentimentIntensityAnalyzer()
    return lambda sentence: float(analyzer.polarity_scores(sentence)["compound"])


def factuality(text: str, context: str) -> float | None:
    """The share of a text's sentences, names and numbers that stand in a context. None without a sentence.

    A sentence does if each of its terms does, in some form, or is a common word.
    """
    original, supported = Original(context), list[bool]()
    for sentence in _SENTENCE_END.split(text):
        terms = [*original.terms(sentence)]
        if not terms:
            continue
        supported.append(all(is_known for _, is_known in terms))
        supported += [is_known for place, (term, is_known) in enumerate(terms) if _is_telling(term, place)]
    return sum(supported) / len(supported) if supported else None


def _is_telling(term: str, place: int) -> bool:
    """Whether a term is a number or a name: one with a capital where its sentence does not begin."""
    return any(map(str.isdigit, term)) or any(map(str.isupper, term if place else term[1:]))


def exact(text: str, expected: str) -> float:
    """1 for the expected text, but for white space, else 0."""
    return float(text.split() == expected.split())


def contains(text: str, expected: str) -> float:
    """1 for a text that holds the expected one, whatever case and white space, else 0."""
    return float(_plain(expected) in _plain(text))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def kappa(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Cohen's kappa of two raters, with quadratic weights: 1 if they agree, 0 if no more than by chance.

    For two values, such as 0 and 1, weights make no difference. None where it is not defined: for fewer than
    two pairs, and where both raters gave one and the same value throughout.
    """
    count = len(pairs)
    if count < 2:
        return None
    first, second = [sum(values) / count for values in zip(*pairs, strict=True)]
    squares = sum(a * a + b * b for a, b in pairs) / count
    by_chance = squares - 2 * first * second
    observed = sum((a - b) ** 2 for a, b in pairs) / count
    return None if by_chance <= 1e-12 else 1 - observed / by_chance

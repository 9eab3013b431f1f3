"""The words of a text that carry its meaning, and how well texts match them (BM25)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence, Set

WORD = re.compile(r"\w+(?:[-_./]\w+)*")
PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_A-Za-z]+")
SUFFIX = re.compile(r"(?<=...)(?:ations?|ings?|ions?|ments?|ies|ied|ed|es|s|ly|e|y)$")
SATURATION = 1.2  # BM25's k1: how soon more of the same word stops counting
LENGTH_PENALTY = 0.5  # BM25's b

# Words of questions and orders too: they say what to do, not what it is about.
COMMON = """
    a about above after again all also am an and any anyone anything are as at away be been before being
    below between both but by can could d did do does doing done down during each either else ever every
    few for from further get gets give given go goes got had has have having he her here hers him his
    how however i if in into is it its just know let like ll m many may me might mine more most much
    must my never no nor not nothing now of off often on once one only onto or other our ours out over
    own per please quite rather re really s same say says see shall she should show since so some
    somebody someone something still such t tell than that the their theirs them then there these they
    thing things this those through thus to too under until up upon us use used uses using ve very via
    want was way we well were what whatever when where whether which while who whom whose why will with
    within without would yet you your yours hello hi hey thanks thank ok okay answer describe explain
    find look make question research summarise summarize summary brief briefly short
    shortly sentence sentences compare list review analyse analyze happen happens happened mean
    means kind ways two three four five first second last latest recent recently made points bullets
"""
STOP_WORDS = frozenset(COMMON.split())


def terms(text: str) -> list[str]:
    """The stems of a text's words, stop words left out; a compound gives itself and its parts."""
    found: list[str] = []
    for word in WORD.findall(text):
        parts = PART.findall(word)
        if len(parts) > 1:
            found.append(word.lower())
        found.extend(stem(part) for part in parts if is_telling(part))
    return found


def is_telling(word: str) -> bool:
    """Whether a word carries meaning: it is a number, or long enough and no stop word."""
    return word.isdigit() or (len(word) > 1 and word.lower() not in STOP_WORDS)


def stem(word: str) -> str:
    """A word in lower case without its inflection, roughly."""
    return SUFFIX.sub("", word.lower())


def telling_words(text: str) -> list[str]:
    """The words of a text as they are written, without stop words and repeats."""
    words = {word.lower(): word for word in reversed(WORD.findall(text)) if is_telling(word)}
    return list(reversed(words.values()))


def coverage(text: Iterable[str], wanted: Set[str]) -> float:
    """The share of the wanted terms that a text, given by its own, has: 0 to 1."""
    return len(wanted & set(text)) / len(wanted) if wanted else 0.0


def relevance(texts: Sequence[Sequence[str]], wanted: Iterable[str]) -> list[float]:
    """How well each text, given by its terms, matches the wanted ones; 0 where it has none of them.

    BM25 over these texts, times the share of the terms that a text has.
    """
    asked = set(wanted)
    counts = [Counter(text) for text in texts]
    lengths = [sum(count.values()) for count in counts]
    average = sum(lengths) / len(lengths) if any(lengths) else 1.0
    frequency = Counter(term for count in counts for term in asked & count.keys())
    weights = {
        term: math.log(1 + (len(texts) - times + 0.5) / (times + 0.5)) for term, times in frequency.items()
    }
    return [
        bm25(count, length / average, weights) * len(asked & count.keys()) / len(asked) if asked else 0.0
        for count, length in zip(counts, lengths, strict=True)
    ]


def bm25(count: Counter[str], relative_length: float, weights: dict[str, float]) -> float:
    """One text's score."""
    damping = SATURATION * (1 - LENGTH_PENALTY + LENGTH_PENALTY * relative_length)
    return sum(
        weights[term] * count[term] * (SATURATION + 1) / (count[term] + damping)
        for term in sorted(weights.keys() & count.keys())
    )


def centrality(texts: Sequence[Sequence[str]]) -> list[float]:
    """How much each text, given by its terms, is about what all are about; the earlier a little more."""
    counts = [set(text) for text in texts]
    frequency = Counter(term for count in counts for term in count)
    return [
        sum(frequency[term] for term in count) / (len(count) + 4) * (1 + 1 / (1 + place / 4))
        for place, count in enumerate(counts)
    ]

"""English words that name nothing: what a text may be reworded with, and what a search may leave out.

Words that are also names of well-known packages, tools or products (click, express, flask, react, request,
rich, spring, vault) are not in the lists, on purpose: a name must come from the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources

SUFFIX = re.compile(r"(?<=..)(?:'s|ations?|ions?|ments?|ies|ied|ing|ed|es|s|ly|e|y)$")


def stem(word: str) -> str:
    """A word in lower case without its inflection: `uses`, `used` and `using` give what `use` gives."""
    base = SUFFIX.sub("", word.lower())
    return base[:-1] if len(base) > 3 and base[-1] == base[-2] else base


def forms(words: Iterable[str]) -> frozenset[str]:
    """The words, and their stems."""
    lower = {word.lower() for word in words}
    return frozenset(lower | {stem(word) for word in lower})


def is_form_of(word: str, known: frozenset[str]) -> bool:
    """Whether a word is one of those whose `forms` are known, or an inflection of one."""
    return word.lower() in known or stem(word) in known


@cache
def function_words() -> frozenset[str]:
    """The words that only hold a sentence together."""
    return _listed("function_words.txt")


@cache
def common_forms() -> frozenset[str]:
    """The forms of the common words of English, and of software at large."""
    return forms(function_words() | _listed("common_words.txt"))


def _listed(name: str) -> frozenset[str]:
    return frozenset(resources.files("meshwright.context").joinpath(name).read_text().split())

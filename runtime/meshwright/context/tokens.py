"""How many tokens a text is, near enough to budget with, for any model and without its vocabulary.

Against two common vocabularies the count is 0.99 to 1.09 of the true one for English prose, code and JSON,
0.75 to 1.05 for German, and 1.05 to 1.6 for Chinese and Japanese: where it is wrong it mostly says too many.
A megabyte takes about 45 ms: what is counted on the event loop must have a size limit.
"""

from __future__ import annotations

import re
from itertools import islice

# A token is about: a word, or eight letters of a long one; three digits; a run of punctuation or of white
# space; one character of a script that writes without spaces.
PIECE = re.compile(r" ?[A-Za-z]{1,8}[À-ɏ]?| ?[Ͱ-֏]{1,5}|\d{1,3}| ?[^\w\s]{1,3}|\s+|\w")
ELLIPSIS = "…"


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text; never more than its characters."""
    return len(PIECE.findall(text))


def clip(text: str, max_tokens: int) -> str:
    """The text, or as much of its start as fits in that many tokens, an ellipsis included."""
    if len(text) <= max_tokens:
        return text
    ends = [piece.end() for piece in islice(PIECE.finditer(text), max_tokens + 1)]
    if len(ends) <= max_tokens:
        return text
    return text[: ends[max_tokens - 2]] + ELLIPSIS if max_tokens > 1 else ELLIPSIS[:max_tokens]

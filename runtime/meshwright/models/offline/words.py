"""A text in words, for answers that are streamed."""

from __future__ import annotations

import re

from meshwright.models.port import OnDelta

WORD = re.compile(r"\s*\S+\s*")


def stream_words(text: str, on_delta: OnDelta) -> None:
    """Tell a text word by word; together they are the text."""
    for word in WORD.findall(text) or filter(None, [text]):
        on_delta(word)

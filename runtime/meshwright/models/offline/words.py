"""A text in words, for answers that are streamed."""

from __future__ import annotations

import asyncio
import re

from meshwright.models.port import OnDelta

WORD = re.compile(r"\S+\s*|\s+")
WORDS_AT_ONCE = 100  # before others have their turn on the event loop


async def stream_words(text: str, on_delta: OnDelta) -> None:
    """Stream a text word by word; together they are the text."""
    for number, word in enumerate(WORD.findall(text), 1):
        on_delta(word)
        if number % WORDS_AT_ONCE == 0:
            await asyncio.sleep(0)

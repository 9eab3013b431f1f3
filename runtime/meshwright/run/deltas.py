"""Shows an answer while the model writes it, in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from meshwright.models.port import STREAM_RESTART

PAUSE_SECONDS = 0.1  # at least, between two pieces of one answer
_MIN_CHARS = 32  # that need not wait for more
MAX_CHARS = 65_536  # of one piece


class Deltas:
    """Takes an answer as the model writes it (`OnDelta`), and shows it in pieces: at most ten a second.

    A piece has at least 32 characters, or what came in 100 ms, and the last what is left. `n` counts those of
    an answer from 1: where it is 1 again the answer starts again, and what came before is void.
    Within a block: what is gathered when that fails is not shown.
    """

    def __init__(self, show: Callable[[dict[str, Any]], None]) -> None:
        self._show = show
        self._loop = asyncio.get_running_loop()
        self._text = ""
        self._n = 0
        self._shown_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, text: str) -> None:
        """Take the next words, or STREAM_RESTART."""
        if text == STREAM_RESTART:
            self._restart()
            return
        self._text += text
        if len(self._text) >= _MIN_CHARS and self._loop.time() - self._shown_at >= PAUSE_SECONDS:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(PAUSE_SECONDS, self._flush)

    def __enter__(self) -> Deltas:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        while kind is None and self._text:
            self._flush()
        self._stop_timer()

    def _restart(self) -> None:
        self._stop_timer()
        self._text = ""
        if self._n:
            self._n = 0
            self._show({"restart": True})

    def _flush(self) -> None:
        self._stop_timer()
        piece, self._text = self._text[:MAX_CHARS], self._text[MAX_CHARS:]
        self._n += 1
        self._shown_at = self._loop.time()
        self._show({"text": _whole(piece), "n": self._n})
        if self._text:
            self._timer = self._loop.call_later(PAUSE_SECONDS, self._flush)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _whole(text: str) -> str:
    """A text that JSON can hold: two halves of a character are joined, a lone one is replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

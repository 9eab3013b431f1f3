"""A streamed call: what its model writes comes in pieces, before the reply is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from meshwright.models.errors import ModelUnavailable
from meshwright.models.port import STREAM_RESTART, ModelReply, OnDelta
from meshwright.models.thinking import OnThinking, Thinking


class StreamedCall:
    """A call in progress, and the pieces of its answer. Its creator must end it.

    `complete` makes the call and hands on each piece of its text, as `Model.complete` does, and of its
    thinking. With `holds_thinking` thinking comes in whole blocks: an attempt that fails while it thinks can
    be repeated unseen.
    """

    def __init__(
        self, complete: Callable[[OnDelta], Coroutine[Any, Any, ModelReply]], *, holds_thinking: bool = False
    ) -> None:
        self._pieces: asyncio.Queue[str | Thinking | None] = asyncio.Queue()
        self._first: str | Thinking | None = None
        self._has_begun = False
        self._sent = ""
        self._repeated: str | None = None
        self._holds_thinking = holds_thinking
        self._has_thought = False
        self._parted = False
        self._task = asyncio.create_task(complete(_Pieces(self._take, self._think)), name="streamed-call")
        self._task.add_done_callback(lambda _: self._pieces.put_nowait(None))

    async def begun(self, seconds: float | None = None) -> None:
        """Wait for the first piece, or for the end of the call, or for so many seconds.

        Raises the error that the call ended with.
        """
        first = await self._next(seconds)
        if first == "":  # nothing came
            return
        self._first, self._has_begun = first, True
        if first is None:
            await self.reply()

    async def pieces(self, idle_seconds: float | None = None) -> AsyncGenerator[str | Thinking]:
        """The thinking and the text, as they come; without a stream below, all of it at the end.

        Thinking comes before the text: what a model thinks later is in the reply alone. An empty piece says
        that nothing came for `idle_seconds`. Raises ModelError.
        """
        piece = self._first if self._has_begun else await self._next(idle_seconds)
        has_come = False
        while piece is not None and (has_come or not self._is_at_once):
            yield piece
            has_come = has_come or bool(piece)
            piece = await self._next(idle_seconds)
        reply = await self.reply()
        for block in () if has_come else reply.thinking:
            yield Thinking(block=block)
        if reply.content and not (has_come and self._sent):
            yield reply.content

    async def _next(self, idle_seconds: float | None) -> str | Thinking | None:
        try:
            async with asyncio.timeout(idle_seconds):
                return await self._pieces.get()
        except TimeoutError:
            return ""

    @property
    def _is_at_once(self) -> bool:
        """Whether the whole answer is there, with thinking that did not come before its text."""
        is_over = self._task.done() and not (self._parted or self._task.cancelled())
        is_whole = is_over and self._task.exception() is None
        return is_whole and not self._has_thought and bool(self._task.result().thinking)

    async def reply(self) -> ModelReply:
        """The whole answer. Raises ModelError."""
        if self._parted:
            raise ModelUnavailable("the stream broke off, and another attempt answers in other words")
        return await asyncio.shield(self._task)

    async def end(self) -> None:
        """Break off what is under way."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _take(self, text: str) -> None:
        if text == STREAM_RESTART:
            self._repeated = ""
            if self._has_thought:  # no attempt thinks in the same words
                self._part()
        elif self._repeated is None:
            self._tell(text)
        else:
            self._repeat(self._repeated + text)

    def _think(self, piece: Thinking) -> None:
        if self._sent or (self._holds_thinking and piece.block is None):
            return
        self._has_thought = True
        self._pieces.put_nowait(piece)

    def _repeat(self, repeated: str) -> None:
        """Another attempt: sent text cannot be taken back, so it has to begin with that text."""
        self._repeated = repeated
        if repeated.startswith(self._sent):
            self._tell(repeated[len(self._sent) :])
            self._repeated = None
        elif not self._sent.startswith(repeated):
            self._part()

    def _part(self) -> None:
        self._parted = True
        self._task.cancel()

    def _tell(self, text: str) -> None:
        if text:
            self._sent += text
            self._pieces.put_nowait(text)


class _Pieces:
    """Takes what a model streams: text by a call, and thinking."""

    def __init__(self, take: OnDelta, think: OnThinking) -> None:
        self._take = take
        self.thinking = think

    def __call__(self, text: str) -> None:
        self._take(text)

"""A streamed call: what its model writes comes in pieces, before the reply is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from meshwright.models.errors import ModelUnavailable
from meshwright.models.port import STREAM_RESTART, ModelReply, OnDelta


class StreamedCall:
    """A call in progress, and the pieces of its answer. Its creator must end it.

    `complete` makes the call and hands on each piece of its text, as `Model.complete` does.
    """

    def __init__(self, complete: Callable[[OnDelta], Coroutine[Any, Any, ModelReply]]) -> None:
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._first: str | None = None
        self._has_begun = False
        self._sent = ""
        self._repeated: str | None = None
        self._parted = False
        self._task = asyncio.create_task(complete(self._take), name="streamed-call")
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

    @property
    def is_whole(self) -> bool:
        """Whether the whole answer is there: `reply` returns it at once."""
        is_over = self._task.done() and not (self._parted or self._task.cancelled())
        return is_over and self._task.exception() is None

    async def pieces(self, idle_seconds: float | None = None) -> AsyncGenerator[str]:
        """The text, as it comes; without a stream below, all of it at the end. Raises ModelError.

        An empty piece says that nothing came for `idle_seconds`.
        """
        piece = self._first if self._has_begun else await self._next(idle_seconds)
        while piece is not None:
            yield piece
            piece = await self._next(idle_seconds)
        reply = await self.reply()
        if reply.content and not self._sent:
            yield reply.content

    async def _next(self, idle_seconds: float | None) -> str | None:
        try:
            async with asyncio.timeout(idle_seconds):
                return await self._pieces.get()
        except TimeoutError:
            return ""

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
        elif self._repeated is None:
            self._tell(text)
        else:
            self._repeat(self._repeated + text)

    def _repeat(self, repeated: str) -> None:
        """Another attempt: sent text cannot be taken back, so it has to begin with that text."""
        self._repeated = repeated
        if repeated.startswith(self._sent):
            self._tell(repeated[len(self._sent) :])
            self._repeated = None
        elif not self._sent.startswith(repeated):
            self._parted = True
            self._task.cancel()

    def _tell(self, text: str) -> None:
        if text:
            self._sent += text
            self._pieces.put_nowait(text)

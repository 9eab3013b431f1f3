"""Calls whose callers gave them up: read to their end, for what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from meshwright.core.errors import ModelError
from meshwright.models.port import ModelReply, ModelRequest, OnDelta, Wrapper


class CallGivenUp(Exception):
    """The cause of the CancelledError of a call whose caller gave it up.

    `lost` has its reply, which the provider bills; nothing if it had not come when the connection was closed.
    """

    lost: tuple[ModelReply, ...] = ()


class ReadingOn(Wrapper):
    """A model whose calls are read on for a while when they are cancelled, if their context says so.

    The CancelledError then comes once the call has ended or the time is over. Its cause is the ModelError of
    the call, else CallGivenUp. Cancelled once more, the call is cut off, unless its reply
    has come by then.
    """

    def complete(
        self, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> Coroutine[Any, Any, ModelReply]:
        """Make one attempt. Raises ModelError."""
        if (read_on := request.context.read_on) is None:
            return self.model.complete(request, on_delta)  # no frame of ours lies between it and the wire
        return self._read_on(request, on_delta, read_on)

    async def _read_on(
        self, request: ModelRequest, on_delta: OnDelta | None, read_on: Callable[[], float | None]
    ) -> ModelReply:
        call = asyncio.create_task(self.model.complete(request, on_delta))
        try:
            await asyncio.wait((call,))
        except asyncio.CancelledError as cancelled:
            if seconds := read_on():
                try:
                    await asyncio.wait((call,), timeout=seconds)
                except asyncio.CancelledError:
                    seconds = None  # it is cut off, but what has come counts
            if not call.done():  # else another cancellation would lose what it has
                call.cancel()
                await asyncio.wait((call,))
            error = None if call.cancelled() else call.exception()
            if isinstance(error, ModelError):
                raise cancelled from error
            has_reply = not call.cancelled() and error is None
            if seconds is None and not has_reply:
                raise
            cause = CallGivenUp()
            cause.lost = (call.result(),) if has_reply else ()
            raise cancelled from cause
        return call.result()

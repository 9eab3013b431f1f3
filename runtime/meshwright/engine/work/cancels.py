"""Cancellations that reach a call whose result is recorded: held back until a call that has none."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from weakref import WeakKeyDictionary, ref

_HOLDER: ContextVar[ref[asyncio.Task[object]] | None] = ContextVar("_HOLDER", default=None)
"""The asyncio task with a held cancellation that the code is of: that task, or one that it made since."""


class HeldCancels:
    """The cancellations of callers that got the recorded results of their calls in spite of them.

    A resumed run waits again for the calls that it gave up, but not for those that it made: so a timeout
    may come earlier than before, in a call that had ended in time. As a timeout comes but once, it is held
    for the call that it ended then, or that begins behind it.
    """

    def __init__(self) -> None:
        # Made by the first: few runs hold any, and each run would make two.
        self._counts: WeakKeyDictionary[asyncio.Task[object], int] | None = None
        """How many cancellations each caller had before the one that is held."""
        self._callers: WeakKeyDictionary[asyncio.Task[object], asyncio.Task[object]] | None = None

    def hold(self, count: int) -> None:
        """Hold a cancellation of the asyncio task, which had a `count` of them before."""
        if (caller := asyncio.current_task()) is not None:
            if self._counts is None:
                self._counts, self._callers = WeakKeyDictionary(), WeakKeyDictionary()
            self._counts.setdefault(caller, count)
            _HOLDER.set(ref(caller))

    def follow(self, call: asyncio.Task[object]) -> None:
        """Note that the asyncio task makes a call, which a held cancellation may be for.

        It may be that of another task, which waits for this one: frameworks read streams in their own tasks.
        """
        if not self._counts or self._callers is None:
            return
        holder = _HOLDER.get()
        for caller in (asyncio.current_task(), None if holder is None else holder()):
            if caller is not None and caller in self._counts:
                self._callers[call] = caller
                return

    def deliver(self) -> None:
        """Raise CancelledError in a call, or its caller, if a cancellation is held and still stands."""
        if not self._counts or self._callers is None or (task := asyncio.current_task()) is None:
            return
        caller = self._callers.get(task, task)
        count = self._counts.pop(caller, None)
        if count is not None and caller.cancelling() > count:  # else its timeout is over
            raise asyncio.CancelledError

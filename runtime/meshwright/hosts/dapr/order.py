"""The order of batches: a broker's client hands messages over side by side, a log has them in order."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

MISSING_SECONDS = 1.5
"""How long a batch waits for those before it, which may be lost, or have come before this process was.

Longer than the pause after which daprd offers again what was not taken: a log that starts anew gets all that
waited for it in one heap.
"""
MAX_SENDERS = 1000


class Order:
    """Lets the numbered batches of each sender, which count from 1, through one after another."""

    def __init__(self) -> None:
        self._next: OrderedDict[str, int] = OrderedDict()
        self._waiting: defaultdict[str, list[int]] = defaultdict(list)
        self._moved = asyncio.Condition()

    @asynccontextmanager
    async def turn(self, sender: str, number: int) -> AsyncIterator[None]:
        """Wait until the batches before this one are done, for a bounded time; those after it wait for it."""
        waiting = self._waiting[sender]
        waiting.append(number)
        try:
            while not await self._is_next(sender, number):
                if number == min(waiting):  # those before it do not come
                    break
            yield
        finally:
            waiting.remove(number)
            if not waiting:
                self._waiting.pop(sender, None)
            await self._pass(sender, number + 1)

    async def _is_next(self, sender: str, number: int) -> bool:
        """Whether all before it have passed, or do in some time."""
        try:
            async with asyncio.timeout(MISSING_SECONDS), self._moved:
                await self._moved.wait_for(lambda: self._next.get(sender, 1) >= number)
        except TimeoutError:
            return False
        return True

    async def _pass(self, sender: str, number: int) -> None:
        async with self._moved:
            self._next[sender] = max(self._next.get(sender, 1), number)
            self._next.move_to_end(sender)
            while len(self._next) > MAX_SENDERS:
                self._next.popitem(last=False)
            self._moved.notify_all()

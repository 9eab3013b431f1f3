"""The order of batches: a broker's client hands messages over side by side, a log has them in order."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

MISSING_SECONDS = 1.0
"""How long a batch waits for the one before it, which may be lost, or have come before this process was."""
MAX_SENDERS = 1000


class Order:
    """Lets the numbered batches of each sender through one after another."""

    def __init__(self) -> None:
        self._next: OrderedDict[str, int] = OrderedDict()
        self._moved = asyncio.Condition()

    @asynccontextmanager
    async def turn(self, sender: str, number: int) -> AsyncIterator[None]:
        """Wait until the batches before this one are done, for a bounded time; those after it wait for it."""
        try:
            async with asyncio.timeout(MISSING_SECONDS), self._moved:
                await self._moved.wait_for(lambda: self._next.setdefault(sender, number) >= number)
        except TimeoutError:
            pass  # it does not come: later ones need not wait for it either
        try:
            yield
        finally:
            async with self._moved:
                self._next[sender] = max(self._next.get(sender, 0), number + 1)
                self._next.move_to_end(sender)
                while len(self._next) > MAX_SENDERS:
                    self._next.popitem(last=False)
                self._moved.notify_all()

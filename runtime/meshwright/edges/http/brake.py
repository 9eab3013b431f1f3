"""Holds back refusals of tenants that go on sending over their limits, so that a flood slows itself alone."""

from __future__ import annotations

import time
from asyncio import sleep

from meshwright.core.http_limits import max_connections
from meshwright.core.messages import Caller

_PATIENCE = 10  # refusals in a second that are answered at once
_SPREAD = 16  # held answers are not let go at the same time
_MAX_TENANTS = 10_000


class Brake:
    """Counts the refusals of each tenant in the current second, and holds back those over ten.

    They wait for one to three seconds, and a client with them, on each of its connections. At most half of
    the server's connections wait; what is refused beyond them is answered at once.
    """

    def __init__(self) -> None:
        self._second = 0
        self._refused: dict[str, int] = {}
        self._held = 0

    async def hold(self, caller: Caller) -> None:
        """Wait where a caller floods. A caller of all tenants never waits: others send through it too."""
        if caller.all_tenants or caller.is_proxy:
            return
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._refused.clear()
        count = self._refused.get(caller.tenant_id, 0) + 1
        if len(self._refused) < _MAX_TENANTS:
            self._refused[caller.tenant_id] = count
        if count <= _PATIENCE or self._held >= max_connections() // 2:
            return
        self._held += 1
        try:
            await sleep(1 + 2 * (self._held % _SPREAD) / _SPREAD)
        finally:
            self._held -= 1

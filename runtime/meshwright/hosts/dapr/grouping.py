"""Grouping: what waits behind a call that is under way goes together in the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Grouping(Generic[ItemT, ResultT]):
    """Hands items to `perform` in groups of up to `size`, `width` groups at a time, in order.

    `perform` gives each item its result, or an exception as its result; what it raises is every item's. Where
    nobody waits for the first item, `delay_seconds` lets more come along.
    """

    def __init__(
        self,
        perform: Callable[[list[ItemT]], Awaitable[list[ResultT | BaseException]]],
        *,
        size: int = 64,
        width: int = 2,
        delay_seconds: float = 0.0,
    ) -> None:
        self._perform = perform
        self._size = size
        self._width = width
        self._delay_seconds = delay_seconds
        self._waiting: deque[tuple[ItemT, asyncio.Future[ResultT]]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def add(self, item: ItemT) -> asyncio.Future[ResultT]:
        """Queue an item; the result comes with the group that it goes in."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ResultT] = loop.create_future()
        self._waiting.append((item, future))
        self._schedule()
        return future

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._waiting and not self._calls

    async def settle(self) -> None:
        """Return when all that was added has its result."""
        while not self.idle:
            await asyncio.wait(self._calls) if self._calls else await asyncio.sleep(0)

    def cancel(self) -> None:
        """Give up, as a crash would."""
        for call in self._calls:
            call.cancel()
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()

    def _schedule(self) -> None:
        if not self._scheduled and len(self._calls) < self._width:
            self._scheduled = True
            loop = asyncio.get_running_loop()
            if self._delay_seconds:
                loop.call_later(self._delay_seconds, self._begin)
            else:
                loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Start groups; a turn of the loop after the first item, so that its neighbours come along."""
        self._scheduled = False
        while self._waiting and len(self._calls) < self._width:
            group = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            call = asyncio.get_running_loop().create_task(self._call(group))
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if self._waiting:
            self._schedule()

    async def _call(self, group: list[tuple[ItemT, asyncio.Future[ResultT]]]) -> None:
        try:
            results = await self._perform([item for item, _ in group])
        except asyncio.CancelledError:
            for _, future in group:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 whatever it was, those who wait are told
            results = [error] * len(group)
        for (_, future), result in zip(group, results, strict=True):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

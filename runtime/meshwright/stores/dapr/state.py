"""Keys of the state store: written once or by compare-and-swap, grouped, and certain when it is told.

A write whose reply is unclear is looked up: it is ours if the store holds our very bytes. So every value
that is swapped has to differ from every other one (a document names the commit that wrote it).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Generic, TypeVar

from meshwright.errors import Conflict, StoreUnavailable
from meshwright.messages import new_id
from meshwright.stores.dapr.sidecar import Sidecar, Stored, Write

RETRY_SECONDS = 0.05
MAX_RETRY_SECONDS = 1.0
_PROBE_TTL_SECONDS = 60
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Grouping(Generic[ItemT, ResultT]):
    """Hands items to `perform` in groups of up to `size`, `width` groups at a time, in order.

    What waits behind a call that is under way goes together in the next one. `perform` gives each item its
    result, or an exception as its result; what it raises is every item's. `delay_seconds` lets more join the
    first item of a group.
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
        """Queue an item; the result comes with its group."""
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._schedule()
        return future

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
                loop.call_soon(self._begin)  # a turn of the loop later, so that its neighbours join

    def _begin(self) -> None:
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


class State:
    """The store of one mesh. `prefix` begins each of its keys.

    `patience_seconds` bounds how long a read or a write is retried while the store does not answer.
    """

    def __init__(self, sidecar: Sidecar, prefix: str, *, patience_seconds: float) -> None:
        self._sidecar = sidecar
        self._prefix = prefix
        self._patience_seconds = patience_seconds
        self._counts = False
        self._writes: Grouping[Write, str | None] = Grouping(self._save_group)
        self._reads: Grouping[str, Stored | None] = Grouping(self._read_group)

    def key(self, *parts: str) -> str:
        """The key of something of this mesh."""
        return "/".join((self._prefix, *parts))

    async def probe(self) -> None:
        """See whether the store's etags count 1, 2, 3, as Redis's do: only then can the next be predicted."""
        key, etag = self.key("probe", new_id()), None
        seen = []
        for n in range(3):
            await self._sidecar.save([Write(key, b"%d" % n, etag, ttl_seconds=_PROBE_TTL_SECONDS)])
            etag = (await self._sidecar.get([key]))[key].etag
            seen.append(etag)
        self._counts = seen == ["1", "2", "3"]

    def read(self, key: str) -> asyncio.Future[Stored | None]:
        """What the store has under a key. Raises StoreUnavailable."""
        return self._reads.add(key)

    def swap(self, write: Write) -> asyncio.Future[str | None]:
        """Write if the store has the version that the write names, or none.

        Returns the new etag, or None where only a read can tell. Raises Conflict where another came first,
        StoreUnavailable where it stays unknown whether the write was made.
        """
        return self._writes.add(write)

    def cancel(self) -> None:
        """Give up what is under way, as a crash would."""
        self._writes.cancel()
        self._reads.cancel()

    async def _read_group(self, keys: list[str]) -> list[Stored | BaseException | None]:
        found = await self._patiently(lambda: self._sidecar.get(list(dict.fromkeys(keys))))
        return [found.get(key) for key in keys]

    async def _save_group(self, writes: list[Write]) -> list[str | BaseException | None]:
        results: dict[int, str | BaseException | None] = {}
        open_writes = dict(enumerate(writes))

        async def attempt() -> None:
            try:
                await self._sidecar.save(list(open_writes.values()))
            except StoreUnavailable as error:
                await self._look_up(open_writes, results)
                if open_writes:
                    raise error
            else:
                results.update({n: self._next(write.etag) for n, write in open_writes.items()})
                open_writes.clear()

        try:
            await self._patiently(attempt)
        except StoreUnavailable as error:
            results.update(dict.fromkeys(open_writes, error))
        return [results[n] for n in range(len(writes))]

    async def _look_up(
        self, open_writes: dict[int, Write], results: dict[int, str | BaseException | None]
    ) -> None:
        """After an unclear reply: find what was written by us or by another; the rest stays open."""
        keys = [write.key for write in open_writes.values()]
        stored = await self._patiently(lambda: self._sidecar.get(keys))
        for n, write in list(open_writes.items()):
            found = stored.get(write.key)
            if found is not None and found.value == write.value:
                results[n] = found.etag
            elif write.blind or (found.etag if found else None) == write.etag:
                continue
            else:
                results[n] = Conflict(f"{write.key} was written by another")
            del open_writes[n]

    def _next(self, etag: str | None) -> str | None:
        """The etag after a save, where it can be predicted."""
        if not self._counts:
            return None
        return "1" if etag is None else str(int(etag) + 1)

    async def _patiently(self, call: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Repeat a call that fails, with growing pauses, until patience ends."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._patience_seconds
        pause = RETRY_SECONDS
        while True:
            try:
                return await call()
            except StoreUnavailable:
                if clock() + pause > until:
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, MAX_RETRY_SECONDS)


def over(write: Write, stored: Stored | None) -> Write:
    """The same write, over what was found."""
    return replace(write, etag=stored.etag if stored else None)

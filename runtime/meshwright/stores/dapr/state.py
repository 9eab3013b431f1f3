"""Keys of the state store: written once or by compare-and-swap, grouped, and certain when it is told.

A write whose reply is unclear is looked up: it is ours if the store holds our very bytes. So every value
that is swapped has to differ from every other one (a document names the commit that wrote it).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from meshwright.clock import Backoff
from meshwright.errors import Conflict, StoreUnavailable
from meshwright.messages import new_id
from meshwright.stores.dapr.sidecar import Sidecar, Stored, Write

logger = logging.getLogger("meshwright.dapr")

_PROBE_TTL_SECONDS = 60
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
_Queued: TypeAlias = tuple[ItemT, asyncio.Future[ResultT], int]
"""An item, its result, and how often it has failed."""


def growing_pause(failures: int) -> float:
    """How long to wait, in seconds, after something has failed so often in a row."""
    return Backoff(0.1, 5.0, 0.5, failures - 1).next()


class Grouping(Generic[ItemT, ResultT]):
    """Hands items to `perform` in groups of up to `size`, `width` groups at a time, in order.

    What waits behind a call that is under way goes together in the next one. `perform` gives each item its
    result, or an exception as its result; what it raises is every item's. With `retries`, an item that fails
    is performed again after a growing pause, until it succeeds. `delay_seconds` lets more join the first
    item of a group.
    """

    def __init__(
        self,
        perform: Callable[[list[ItemT]], Awaitable[Sequence[ResultT | BaseException]]],
        *,
        size: int = 64,
        width: int = 2,
        delay_seconds: float = 0.0,
        retries: bool = False,
    ) -> None:
        self._perform = perform
        self._size = size
        self._width = width
        self._delay_seconds = delay_seconds
        self._retries = retries
        self._waiting: deque[_Queued[ItemT, ResultT]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._scheduled = self._is_cancelled = False
        self._reason: Exception | None = None

    def add(self, item: ItemT) -> asyncio.Future[ResultT]:
        """Queue an item; the result comes with its group."""
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future, 0))
        if self._is_cancelled:
            self._end_all(self._waiting)
        else:
            self._schedule()
        return future

    def cancel(self, reason: Exception | None = None) -> None:
        """Give up for good, as a crash would. Those who wait are cancelled, or get the reason."""
        self._is_cancelled, self._reason = True, reason
        for call in self._calls:
            call.cancel()
        self._end_all(self._waiting)

    def _end_all(self, items: deque[_Queued[ItemT, ResultT]]) -> None:
        while items:
            _, future, _ = items.popleft()
            if self._reason is None:
                future.cancel()
            elif not future.done():
                _fail(future, self._reason)

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

    async def _call(self, group: list[_Queued[ItemT, ResultT]]) -> None:
        try:
            results = await self._perform([item for item, _, _ in group])
        except asyncio.CancelledError:
            self._end_all(deque(group))
            raise
        except Exception as error:  # noqa: BLE001 whatever it was, those who wait are told
            results = [error] * len(group)
        failed: list[_Queued[ItemT, ResultT]] = []
        for (item, future, failures), result in zip(group, results, strict=True):
            if isinstance(result, BaseException) and self._retries:
                failed.append((item, future, failures + 1))
            elif future.done():
                continue
            elif isinstance(result, BaseException):
                _fail(future, result)
            else:
                future.set_result(result)
        if failed:
            pause = growing_pause(max(failures for _, _, failures in failed))
            errors = [result for result in results if isinstance(result, BaseException)]
            logger.warning("%d items are tried again in %.1f s: %s", len(failed), pause, errors[0])
            asyncio.get_running_loop().call_later(pause, self._again, failed)

    def _again(self, failed: list[_Queued[ItemT, ResultT]]) -> None:
        self._waiting.extendleft(reversed(failed))
        if self._is_cancelled:
            self._end_all(self._waiting)
        else:
            self._schedule()


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    future.set_exception(error)
    future.exception()  # looked at: who asked may have failed before, and wait no more


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

    def cancel(self, reason: Exception) -> None:
        """Give up what is under way, as a crash would."""
        self._writes.cancel(reason)
        self._reads.cancel(reason)

    async def _read_group(self, keys: list[str]) -> list[Stored | BaseException | None]:
        found = await self._patiently(lambda: self._sidecar.get([*dict.fromkeys(keys)]))
        return [found.get(key) for key in keys]

    async def _save_group(self, writes: list[Write]) -> list[str | BaseException | None]:
        results: list[str | BaseException | None] = [None] * len(writes)
        unclear = list(range(len(writes)))

        async def attempt() -> None:
            try:
                await self._sidecar.save([writes[n] for n in unclear])
            except StoreUnavailable:
                keys = [writes[n].key for n in unclear]
                stored = await self._patiently(lambda: self._sidecar.get(keys))
                unclear[:] = [n for n in unclear if self._is_unclear(n, writes[n], stored, results)]
                if unclear:
                    raise
            else:
                for n in unclear:
                    results[n] = self._next(writes[n].etag)
                unclear.clear()

        try:
            await self._patiently(attempt)
        except StoreUnavailable as error:
            for n in unclear:
                results[n] = error
        return results

    @staticmethod
    def _is_unclear(
        n: int, write: Write, stored: Mapping[str, Stored], results: list[str | BaseException | None]
    ) -> bool:
        """Whether, after an unclear reply, a write is still to be made."""
        found = stored.get(write.key)
        if found is not None and found.value == write.value:
            results[n] = found.etag
            return False
        if (found.etag if found else None) == write.etag:
            return True
        results[n] = Conflict(f"{write.key} was written by another")
        return False

    def _next(self, etag: str | None) -> str | None:
        """The etag after a save, where it can be predicted."""
        if not self._counts:
            return None
        return "1" if etag is None else str(int(etag) + 1)

    async def _patiently(self, call: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Repeat a call that fails, with growing pauses, until patience ends."""
        clock = asyncio.get_running_loop().time
        until, backoff = clock() + self._patience_seconds, Backoff(0.05, 1.0, 0.5)
        while True:
            try:
                return await call()
            except StoreUnavailable:
                pause = backoff.next()
                if clock() + pause > until:
                    raise
            await asyncio.sleep(pause)

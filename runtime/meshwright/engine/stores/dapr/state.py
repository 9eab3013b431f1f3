"""Keys of the state store: written once or by compare-and-swap, grouped, and durable when the call returns.

A write whose reply is unclear is looked up: it is ours if the store holds our very bytes. So every value
that is swapped has to differ from every other one (a document names the commit that wrote it).

    replica/{name}              the last incarnation of a replica
    lease/{incarnation}         expires unless it is renewed; the store's own clock counts

Another worker may take up the work of an incarnation whose lease has expired. A worker that could not renew
in time (no sidecar, or the process was stopped) takes itself for expired as well, and begins a new one.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic_core import from_json, to_json

from meshwright.core.clock import Backoff
from meshwright.core.errors import Conflict, HostError, StoreUnavailable
from meshwright.core.ids import new_id
from meshwright.engine.stores.dapr.sidecar import Options, Sidecar, StoredValue, Write

_logger = logging.getLogger("meshwright.dapr")

_PROBE_TTL_SECONDS = 60
KNOWN_ALIVE_SECONDS = 1.0  # how long an answer is believed
_ItemT = TypeVar("_ItemT")
_ResultT = TypeVar("_ResultT")
_Queued: TypeAlias = tuple[_ItemT, asyncio.Future[_ResultT] | None, int]
"""An item, its result where somebody waits for it, and how often it has failed."""


def growing_pause(failures: int) -> float:
    """How long to wait, in seconds, after something has failed so often in a row."""
    return Backoff(0.1, 5.0, 0.5, failures - 1).next()


class Grouping(Generic[_ItemT, _ResultT]):
    """Hands items to `perform` in groups of up to `size`, `width` groups at a time, in order.

    Items that wait behind a call under way go together in the next one. `perform` gives each item its
    result, or an exception as its result; what it raises is every item's. With `retries`, an item that fails
    is performed again after a growing pause, until it succeeds. `delay_seconds` lets more join the first
    item of a group.
    """

    def __init__(
        self,
        perform: Callable[[list[_ItemT]], Awaitable[Sequence[_ResultT | BaseException]]],
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
        self._waiting: deque[_Queued[_ItemT, _ResultT]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._scheduled = self._is_cancelled = False
        self._reason: Exception | None = None

    def add(self, item: _ItemT) -> asyncio.Future[_ResultT]:
        """Queue an item; the result comes with its group."""
        future: asyncio.Future[_ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future, 0))
        self._go_on()
        return future

    def put(self, items: Iterable[_ItemT]) -> None:
        """Queue items without a caller that waits for their results."""
        self._waiting.extend([(item, None, 0) for item in items])
        self._go_on()

    def cancel(self, reason: Exception | None = None) -> None:
        """Give up for good, as a crash would. Waiting callers are cancelled, or get the reason."""
        self._is_cancelled, self._reason = True, reason
        for call in self._calls:
            call.cancel()
        self._end_all(self._waiting)

    def _end_all(self, items: deque[_Queued[_ItemT, _ResultT]]) -> None:
        while items:
            _, future, _ = items.popleft()
            if future is None:
                continue
            if self._reason is None:
                future.cancel()
            elif not future.done():
                _fail(future, self._reason)

    def _go_on(self) -> None:
        if self._is_cancelled:
            self._end_all(self._waiting)
        elif self._waiting and not self._scheduled and len(self._calls) < self._width:
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
            call.add_done_callback(partial(self._ended, group))

    def _ended(self, group: list[_Queued[_ItemT, _ResultT]], call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if call.cancelled():  # perhaps before its first step, where it cannot end its callers itself
            self._end_all(deque(group))
        self._go_on()

    async def _call(self, group: list[_Queued[_ItemT, _ResultT]]) -> None:
        try:
            results = await self._perform([item for item, _, _ in group])
        except Exception as error:  # noqa: BLE001 waiting callers get every error
            results = [error] * len(group)
        failed: list[_Queued[_ItemT, _ResultT]] = []
        for (item, future, failures), result in zip(group, results, strict=True):
            has_failed = isinstance(result, BaseException)
            if has_failed and self._retries:
                failed.append((item, future, failures + 1))
            elif future is None or future.done():
                continue
            elif has_failed:
                _fail(future, result)
            else:
                future.set_result(result)
        if failed:
            pause = growing_pause(max(failures for _, _, failures in failed))
            errors = [result for result in results if isinstance(result, BaseException)]
            _logger.warning("%d items are tried again in %.1f s: %s", len(failed), pause, errors[0])
            asyncio.get_running_loop().call_later(pause, self._again, failed)

    def _again(self, failed: list[_Queued[_ItemT, _ResultT]]) -> None:
        self._waiting.extendleft(reversed(failed))
        self._go_on()


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
        self._reads: Grouping[str, StoredValue | None] = Grouping(self._read_group)

    def key(self, *parts: str) -> str:
        """The key of something of this mesh."""
        return "/".join((self._prefix, *parts))

    async def probe(self) -> None:
        """See whether the store's etags count 1, 2, 3, as Redis's do: only then can the next be predicted."""
        key, etag = self.key("probe", new_id()), None
        etags = []
        for n in range(3):
            await self._sidecar.save([Write(key, b"%d" % n, etag, ttl_seconds=_PROBE_TTL_SECONDS)])
            etag = (await self._sidecar.get([key]))[key].etag
            etags.append(etag)
        self._counts = etags == ["1", "2", "3"]

    def read(self, key: str) -> asyncio.Future[StoredValue | None]:
        """The value that the store has under a key. Raises StoreUnavailable."""
        return self._reads.add(key)

    def swap(self, write: Write) -> asyncio.Future[str | None]:
        """Write if the store has the version that the write names, or none.

        Returns the new etag, or None where only a read can tell. Raises Conflict where another came first,
        StoreUnavailable where it stays unknown whether the write was made.
        """
        return self._writes.add(write)

    async def delete(self, key: str) -> None:
        """Forget a key that no commit is guarded by. Raises StoreUnavailable."""
        await self._patiently(lambda: self._sidecar.delete(key))

    def cancel(self, reason: Exception) -> None:
        """Give up reads and writes under way, as a crash would."""
        self._writes.cancel(reason)
        self._reads.cancel(reason)

    async def _read_group(self, keys: list[str]) -> list[StoredValue | BaseException | None]:
        values = await self._patiently(lambda: self._sidecar.get([*dict.fromkeys(keys)]))
        return [values.get(key) for key in keys]

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
        n: int, write: Write, stored: Mapping[str, StoredValue], results: list[str | BaseException | None]
    ) -> bool:
        """Whether, after an unclear reply, a write is still to be made."""
        value = stored.get(write.key)
        if value is not None and value.value == write.value:
            results[n] = value.etag
            return False
        if (value.etag if value else None) == write.etag:
            return True
        results[n] = Conflict(f"{write.key} was written by another")
        return False

    def _next(self, etag: str | None) -> str | None:
        """The etag after a save, where it can be predicted."""
        if not self._counts:
            return None
        return "1" if etag is None else str(int(etag) + 1)

    async def _patiently(self, call: Callable[[], Awaitable[_ResultT]]) -> _ResultT:
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


class WorkerLease:
    """Leases of incarnations in the store; this process holds one at a time.

    `lost` is called where it was not renewed in time.
    """

    def __init__(self, options: Options, state: State, sidecar: Sidecar, on_lost: Callable[[], None]) -> None:
        self._state = state
        self._sidecar = sidecar
        self._lost = on_lost
        self._lease_seconds = options.lease_seconds
        self._renew_seconds = options.renew_seconds
        self._incarnation = ""
        self._valid_until = -math.inf
        self._version = 0
        self._alive_until: dict[str, float] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def succeed(self, replica: str, incarnation: str) -> bool:
        """Follow the last incarnation of the same replica, if there was one: it has ended, since we are here.

        Should it live after all, only work is done twice: its commits are refused.
        """
        key = self._state.key("replica", replica)
        stored = await self._state.read(key)
        if stored is not None and (last := from_json(stored.value)["incarnation"]) != incarnation:
            await self._sidecar.delete(self._key(last))
        value = to_json({"v": 1, "incarnation": incarnation})
        await self._sidecar.save([Write(key, value, blind=True)])
        return stored is not None

    async def take(self, incarnation: str) -> None:
        """Hold a lease for this incarnation, and renew it until `stop`. Raises StoreUnavailable."""
        self._incarnation, self._version = incarnation, 0
        await self._renew()
        self._renewing = asyncio.create_task(self._renew_on(), name="lease")

    @property
    def is_held(self) -> bool:
        """Whether the lease can still be relied upon."""
        return asyncio.get_running_loop().time() < self._valid_until

    async def has_expired(self, incarnation: str) -> bool:
        """Whether its lease has expired or was given back. Not where the store does not answer."""
        now = asyncio.get_running_loop().time()
        if incarnation == self._incarnation or self._alive_until.get(incarnation, 0.0) > now:
            return False
        try:
            has_expired = await self._state.read(self._key(incarnation)) is None
        except HostError as error:
            _logger.warning("whether worker %s has expired is not known: %s", incarnation, error)
            return False
        self._alive_until.pop(incarnation, None)
        if not has_expired:
            self._alive_until[incarnation] = now + KNOWN_ALIVE_SECONDS
        return has_expired

    async def stop(self, *, give_back: bool) -> None:
        """Renew it no more, and give it back so that others need not wait for its end."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
            self._renewing = None
        self._valid_until = -math.inf
        if give_back:
            try:
                await self._sidecar.delete(self._key(self._incarnation))
            except StoreUnavailable as error:
                _logger.warning("the lease is not given back, and runs out by itself: %s", error)

    async def _renew_on(self) -> None:
        loop = asyncio.get_running_loop()
        while self.is_held:
            await asyncio.sleep(min(self._renew_seconds, max(0.0, self._valid_until - loop.time())))
            try:
                if self.is_held:
                    await self._renew()
            except StoreUnavailable as error:
                _logger.warning("the lease is not renewed yet: %s", error)
        _logger.warning("worker %s could not renew its lease in time", self._incarnation)
        self._lost()

    async def _renew(self) -> None:
        """Write the key only if it still exists: a late write would create it again.

        Redis counts the writes of a key, and forgets the count with it. If a store does not count, a worker
        that was taken for expired learns it from its watch list, which another has closed.
        """
        asked_at = asyncio.get_running_loop().time()
        key, ttl = self._key(self._incarnation), math.ceil(self._lease_seconds)
        await self._sidecar.save([Write(key, b'{"v":1}', blind=True, ttl_seconds=ttl)])
        stored = (await self._sidecar.get([key])).get(key)
        etag = stored.etag if stored is not None else None
        version = int(etag) if etag is not None and etag.isdecimal() else self._version + 1
        is_lost = stored is None or version <= self._version
        self._valid_until = -math.inf if is_lost else asked_at + self._lease_seconds
        self._version = version

    def _key(self, incarnation: str) -> str:
        return self._state.key("lease", incarnation)

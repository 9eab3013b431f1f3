"""Who works, and on what: leases of workers, and lists of the actors that each has to watch.

    replica/{name}              the last incarnation of a replica
    lease/{incarnation}         expires unless it is renewed; the store's own clock counts
    watches/{app}               the incarnations that have a list; what every worker sweeps
    watch/{incarnation}         the numbers of its documents
    watch/{incarnation}/{n}     up to MAX_OPEN actors that are owed something

Another worker may take up the work of an incarnation whose lease has expired. A worker that could not renew
in time (no sidecar, or the process was stopped) takes itself for expired as well, and begins a new one.

A reminder for each task would cost a third of the rate, so a worker writes its open actors into a few
documents, and one reminder stands for all of them. An actor is on the list before a reply, an acknowledgement
or an effect rests on it, and leaves it lazily: who looks at one that is owed nothing strikes it off.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.envelope import ActorRef
from meshwright.errors import Conflict, HostError, StoreUnavailable
from meshwright.messages import new_id
from meshwright.stores.dapr.sidecar import Options, Sidecar, Write
from meshwright.stores.dapr.state import State, over

logger = logging.getLogger("meshwright.dapr")

KNOWN_ALIVE_SECONDS = 1.0  # how long an answer is believed
MAX_OPEN = 256  # names in one document: what is written again for each group of new ones
_ADOPTING_TTL_SECONDS = 30
_CLOSED_TTL_SECONDS = 86_400  # long enough for a worker that sleeps to find its list closed


class Lease:
    """Leases of incarnations in the store; this process holds one at a time.

    `lost` is called where it was not renewed in time.
    """

    def __init__(
        self,
        options: Options,
        state: State,
        sidecar: Sidecar,
        lost: Callable[[], None],
    ) -> None:
        self._state = state
        self._sidecar = sidecar
        self._lost = lost
        self._lease_seconds = options.lease_seconds
        self._renew_seconds = options.renew_seconds
        self._incarnation = ""
        self._valid_until = -math.inf
        self._version = 0
        self._alive_until: dict[str, float] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def succeed(self, replica: str, incarnation: str) -> bool:
        """Follow the last incarnation of the same replica, if there was one: it has ended, since we are here.

        Should it live after all, only work is done twice: its commits are refused as those of any other.
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
        """Whether that incarnation's lease has expired or was given back. Raises StoreUnavailable."""
        now = asyncio.get_running_loop().time()
        if incarnation == self._incarnation or self._alive_until.get(incarnation, 0.0) > now:
            return False
        if await self._state.read(self._key(incarnation)) is None:
            self._alive_until.pop(incarnation, None)
            return True
        self._alive_until[incarnation] = now + KNOWN_ALIVE_SECONDS
        return False

    async def is_known_expired(self, incarnation: str) -> bool:
        """Likewise; where the store does not answer that counts as not."""
        try:
            return await self.has_expired(incarnation)
        except HostError as error:
            logger.warning("whether worker %s has expired is not known: %s", incarnation, error)
            return False

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
                logger.warning("the lease is not given back, and runs out by itself: %s", error)

    async def _renew_on(self) -> None:
        loop = asyncio.get_running_loop()
        while self.is_held:
            await asyncio.sleep(min(self._renew_seconds, max(0.0, self._valid_until - loop.time())))
            try:
                if self.is_held:
                    await self._renew()
            except StoreUnavailable as error:
                logger.warning("the lease is not renewed yet: %s", error)
        logger.warning("worker %s could not renew its lease in time", self._incarnation)
        self._lost()

    async def _renew(self) -> None:
        """Write the key, and see that it was still there: one that comes too late would begin it anew.

        Redis counts the writes of a key, and forgets the count with it. Where a store does not count, a
        worker that was taken for expired finds that out by its watch list, which another has closed.
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


@dataclass(slots=True)
class _Page:
    """One document of open actors, as it is wanted, and the etag of what is stored."""

    number: int
    open: dict[ActorRef, None] = field(default_factory=dict)
    etag: str | None = None
    is_dirty: bool = False


class WatchList:
    """The list of one incarnation. `arm` before anything rests on it, `disarm` when nothing does any more.

    `lost` is called, once, where another has closed it: this worker was taken for expired.
    """

    def __init__(self, state: State, incarnation: str, lost: Callable[[], None]) -> None:
        self.incarnation = incarnation
        self._state = state
        self._lost = lost
        self._pages: dict[int, _Page] = {}
        self._page_of: dict[ActorRef, _Page] = {}
        self._current: _Page | None = None
        self._index_etag: str | None = None
        self._index_written = False
        self._waiting: list[asyncio.Future[None]] = []
        self._unanswered: set[asyncio.Future[None]] = set()
        self._closed: HostError | None = None
        self._flushing: asyncio.Task[None] | None = None

    def __contains__(self, ref: ActorRef) -> bool:
        return ref in self._page_of

    def __iter__(self) -> Iterator[ActorRef]:
        return iter(list(self._page_of))

    def __len__(self) -> int:
        return len(self._page_of)

    def arm(self, ref: ActorRef) -> asyncio.Future[None] | None:
        """Put an actor on the list; await the result, if there is one, to know that durable.

        Raises Conflict (from what is awaited) where another has adopted the list. Raises the reason where it
        is closed.
        """
        if self._closed is not None:
            raise self._closed
        known = self._page_of.get(ref)
        if known is not None and not known.is_dirty:
            return None
        if known is None:
            page = self._room()
            page.open[ref] = None
            page.is_dirty = True
            self._page_of[ref] = page
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._unanswered.add(future)
        future.add_done_callback(self._answered)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._write_all(), name="watch list")
        return future

    def disarm(self, ref: ActorRef) -> None:
        """Strike an actor off; written with the next that is armed."""
        page = self._page_of.pop(ref, None)
        if page is not None:
            page.open.pop(ref, None)

    def close(self, error: HostError) -> None:
        """Write nothing more: whoever waits is told why."""
        if self._flushing is not None:
            self._flushing.cancel()
        self._closed = error
        _end(self._unanswered, error)

    def _answered(self, future: asyncio.Future[None]) -> None:
        self._unanswered.discard(future)
        if not future.cancelled():
            future.exception()  # looked at: the commit that it belongs to may have failed before

    def _room(self) -> _Page:
        """The page that is filled now: an emptier one where this is full, or a new one."""
        if self._current is None or len(self._current.open) >= MAX_OPEN:
            emptiest = min(self._pages.values(), key=lambda page: len(page.open), default=None)
            if emptiest is None or len(emptiest.open) > MAX_OPEN // 2:
                emptiest = self._pages[len(self._pages) + 1] = _Page(len(self._pages) + 1)
                self._index_written = False
            self._current = emptiest
        return self._current

    async def _write_all(self) -> None:
        while self._waiting:
            waiting = self._waiting
            self._waiting = list[asyncio.Future[None]]()
            try:
                if not self._index_written:
                    await self._write_index()
                pages = [page for page in self._pages.values() if page.is_dirty]
                await asyncio.gather(*map(self._write_page, pages))
            except (HostError, Conflict) as error:
                _end(waiting, error)
                if isinstance(error, Conflict) and self._closed is None:
                    self._closed = StoreUnavailable(
                        f"another worker has taken up what {self.incarnation} did"
                    )
                    self._lost()
            else:
                _end(waiting, None)

    async def _write_index(self) -> None:
        self._index_written = True
        try:
            value = _document(docs=list(self._pages))
            self._index_etag = await self._swap(("watch", self.incarnation), value, self._index_etag)
        except BaseException:  # a cancelled write too was not made
            self._index_written = False
            raise

    async def _write_page(self, page: _Page) -> None:
        page.is_dirty = False
        try:
            value = _document(open=[str(ref) for ref in page.open])
            page.etag = await self._swap(("watch", self.incarnation, str(page.number)), value, page.etag)
        except BaseException:  # likewise
            page.is_dirty = True
            raise

    async def _swap(self, parts: tuple[str, ...], value: bytes, etag: str | None) -> str:
        key = self._state.key(*parts)
        new = await self._state.swap(Write(key, value, etag))
        if new is None:
            stored = await self._state.read(key)
            if stored is None or stored.value != value:
                raise Conflict(f"{key} was written by another")
            new = stored.etag
        return new


class Watches:
    """The lists of all incarnations of an app: which there are, and how one is adopted."""

    def __init__(self, state: State, lease: Lease, app_id: str) -> None:
        self._state = state
        self._lease = lease
        self._key = state.key("watches", app_id)

    async def incarnations(self) -> list[str]:
        """Those that have a list."""
        stored = await self._state.read(self._key)
        return from_json(stored.value)["incarnations"] if stored else []

    async def add(self, incarnation: str) -> None:
        """Make a list known, before anything is armed on it."""
        await self._change(lambda names: [*names, incarnation])

    async def remove(self, incarnation: str) -> None:
        """Forget a list."""
        await self._change(lambda names: [name for name in names if name != incarnation])

    async def begin_adopting(self, incarnation: str, adopter: str) -> bool:
        """Whether this worker may adopt a list now: another that is alive may be at it."""
        key = self._state.key("adopting", incarnation)
        stored = await self._state.read(key)
        if stored is not None:
            other = from_json(stored.value)["adopter"]
            if other != adopter and not await self._lease.has_expired(other):
                return False
        write = Write(key, _document(adopter=adopter), ttl_seconds=_ADOPTING_TTL_SECONDS)
        try:
            await self._state.swap(over(write, stored))
        except Conflict:
            return False
        return True

    async def close(self, incarnation: str) -> list[ActorRef]:
        """Close a list, so that its worker, should it wake, writes no more on it; returns who was on it."""
        index = await self._close(self._state.key("watch", incarnation))
        keys = [self._state.key("watch", incarnation, str(number)) for number in index.get("docs", ())]
        pages = await asyncio.gather(*map(self._close, keys))
        return [ActorRef.parse(name) for page in pages for name in page.get("open", ())]

    async def _close(self, key: str) -> dict[str, Any]:
        """Mark a document as closed, and return what it held; what was closed before holds it still."""
        while True:
            stored = await self._state.read(key)
            held = from_json(stored.value) if stored else {}
            closed = to_json({**held, "by": new_id(), "closed": True})
            try:
                await self._state.swap(over(Write(key, closed, ttl_seconds=_CLOSED_TTL_SECONDS), stored))
            except Conflict:
                continue
            return held

    async def _change(self, change: Callable[[list[str]], list[str]]) -> None:
        while True:
            stored = await self._state.read(self._key)
            names = from_json(stored.value)["incarnations"] if stored else []
            wanted = change(names)
            if wanted == names:
                return
            try:
                await self._state.swap(over(Write(self._key, _document(incarnations=wanted)), stored))
            except Conflict:
                continue
            return


def _document(**content: Any) -> bytes:
    """A value that differs from every other one, so that its writer knows it again."""
    return to_json({"v": 1, "by": new_id(), **content})


def _end(futures: Any, error: Exception | None) -> None:
    for future in list(futures):
        if not future.done():
            future.set_result(None) if error is None else future.set_exception(error)

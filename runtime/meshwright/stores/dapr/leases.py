"""Who works, and on what: leases of workers, and lists of the actors that each has to watch.

    replica/{name}              the last incarnation of a replica
    lease/{incarnation}         expires unless it is renewed; the store's own clock counts
    watches/{app}               the incarnations that have a list; what every worker sweeps
    watch/{incarnation}/{n}     from 1: up to MAX_OPEN actors that are owed something

Another worker may take up the work of an incarnation whose lease has expired. A worker that could not renew
in time (no sidecar, or the process was stopped) takes itself for expired as well, and begins a new one.

A reminder of Dapr's for each task would cost a third of the rate, so a worker writes its open actors into a
few documents, which all workers of its app look at now and then. An actor is on the list before a reply, an
acknowledgement or an effect rests on it, and leaves it lazily: who looks at one that is owed nothing strikes
it off.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.envelope import ActorRef
from meshwright.errors import Conflict, HostError, StoreUnavailable
from meshwright.messages import new_id
from meshwright.stores.dapr.sidecar import Options, Sidecar, Write
from meshwright.stores.dapr.state import Grouping, State

logger = logging.getLogger("meshwright.dapr")

KNOWN_ALIVE_SECONDS = 1.0  # how long an answer is believed
MAX_OPEN = 256  # names in one document: what is written again for each group of new ones
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
        """Whether its lease has expired or was given back. Not where the store does not answer."""
        now = asyncio.get_running_loop().time()
        if incarnation == self._incarnation or self._alive_until.get(incarnation, 0.0) > now:
            return False
        try:
            has_expired = await self._state.read(self._key(incarnation)) is None
        except HostError as error:
            logger.warning("whether worker %s has expired is not known: %s", incarnation, error)
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


@dataclass(slots=True, eq=False)
class _Page:
    """One document of open actors, as it is wanted, and the etag of what is stored."""

    number: int
    open: dict[ActorRef, None] = field(default_factory=dict)
    etag: str | None = None


class WatchList:
    """The list of one incarnation. `arm` before anything rests on it, `disarm` when nothing does any more.

    `lost` is called, once, where another has closed it: this worker was taken for expired.
    """

    def __init__(self, state: State, incarnation: str, lost: Callable[[], None]) -> None:
        self.incarnation = incarnation
        self._state = state
        self._lost = lost
        self._pages: list[_Page] = []
        self._page_of: dict[ActorRef, _Page] = {}
        self._closed: HostError | None = None
        self._arming: Grouping[ActorRef, None] = Grouping(self._write, size=MAX_OPEN, width=1)

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
        return None if ref in self._page_of else self._arming.add(ref)

    def disarm(self, ref: ActorRef) -> None:
        """Strike an actor off; written with the next that is armed."""
        page = self._page_of.pop(ref, None)
        if page is not None:
            page.open.pop(ref, None)

    def close(self, error: HostError) -> None:
        """Write nothing more: whoever waits is told why."""
        self._closed = error
        self._arming.cancel(error)

    async def _write(self, group: list[ActorRef]) -> list[None]:
        """Write the pages of new actors one after another: who adopts the list reads until one is missing."""
        changed: dict[_Page, list[ActorRef]] = {}
        for ref in dict.fromkeys(group):
            if ref not in self._page_of:
                page = self._page_with_room()
                page.open[ref] = None
                changed.setdefault(page, []).append(ref)
        try:
            while changed:
                page, refs = next(iter(changed.items()))
                await self._write_page(page)
                del changed[page]
                self._page_of.update(dict.fromkeys(refs, page))
        except Conflict:
            if self._closed is None:
                self._closed = StoreUnavailable(f"another worker has taken up what {self.incarnation} did")
                self._lost()
            raise
        finally:
            for page, refs in changed.items():
                for ref in refs:
                    del page.open[ref]
        return [None] * len(group)

    def _page_with_room(self) -> _Page:
        """The one that is filled now; when it is full an emptier one, or a new one."""
        if not self._pages or len(self._pages[-1].open) >= MAX_OPEN:
            self._pages.sort(key=lambda page: len(page.open), reverse=True)
            if not self._pages or len(self._pages[-1].open) > MAX_OPEN // 2:
                self._pages.append(_Page(len(self._pages) + 1))
        return self._pages[-1]

    async def _write_page(self, page: _Page) -> None:
        key = self._state.key("watch", self.incarnation, str(page.number))
        value = _document(open=[str(ref) for ref in page.open])
        etag = await self._state.swap(Write(key, value, page.etag))
        if etag is None:
            stored = await self._state.read(key)
            if stored is None or stored.value != value:
                raise Conflict(f"{key} was written by another")
            etag = stored.etag
        page.etag = etag


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

    async def close(self, incarnation: str, adopter: str) -> list[ActorRef] | None:
        """Close a list, so that its worker, should it wake, writes no more on it; returns who was on it.

        None where another that is alive is adopting it.
        """
        names: list[str] = []
        for number in itertools.count(1):
            page = await self._close(self._state.key("watch", incarnation, str(number)), adopter)
            if page is None:
                return None
            if "open" not in page:
                break
            names += page["open"]
        return [ActorRef.parse(name) for name in names]

    async def _close(self, key: str, adopter: str) -> dict[str, Any] | None:
        """Mark a page as closed, and return it; what was closed before holds what it held."""
        while True:
            stored = await self._state.read(key)
            page = from_json(stored.value) if stored else {}
            other = page.get("adopter", adopter)
            if other != adopter and not await self._lease.has_expired(other):
                return None
            closed = to_json({**page, "by": new_id(), "closed": True, "adopter": adopter})
            etag = stored.etag if stored else None
            with suppress(Conflict):
                await self._state.swap(Write(key, closed, etag, ttl_seconds=_CLOSED_TTL_SECONDS))
                return page

    async def _change(self, change: Callable[[list[str]], list[str]]) -> None:
        while True:
            stored = await self._state.read(self._key)
            names = from_json(stored.value)["incarnations"] if stored else []
            if (wanted := change(names)) == names:
                return
            value = _document(incarnations=wanted)
            with suppress(Conflict):
                await self._state.swap(Write(self._key, value, stored.etag if stored else None))
                return


def _document(**content: Any) -> bytes:
    """A value that differs from every other one, so that its writer knows it again."""
    return to_json({"v": 1, "by": new_id(), **content})

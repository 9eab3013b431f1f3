"""The lists of actors that are owed something: each worker's own, and lists of workers that have gone.

    watches/{app}               the incarnations that have a list; what every worker sweeps
    watch/{incarnation}/{n}     from 1: up to MAX_OPEN actors that are owed something

A reminder of Dapr's for each task would cost a third of the rate, so a worker writes its open actors into a
few documents. An actor is on the list before a reply, an acknowledgement or an effect rests on it, and leaves
it lazily: a review strikes off actors that are owed nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.core.errors import Conflict, HostError, StoreUnavailable
from meshwright.core.ids import new_id
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.stores.dapr.sidecar import Write
from meshwright.engine.stores.dapr.state import Grouping, State, WorkerLease

MAX_OPEN = 256  # names in one document: what is written again for each group of new ones
_CLOSED_TTL_SECONDS = 86_400  # long enough for a worker that sleeps to find its list closed


@dataclass(slots=True, eq=False)
class _Page:
    """One document of open actors as it shall be, and the etag of the stored one."""

    number: int
    open: dict[ActorRef, None] = field(default_factory=dict)
    etag: str | None = None


class WatchList:
    """The list of one incarnation. `arm` before anything rests on it, `disarm` when nothing does any more.

    `lost` is called, once, where another has closed it: this worker was taken for expired.
    """

    def __init__(self, state: State, incarnation: str, on_lost: Callable[[], None]) -> None:
        self.incarnation = incarnation
        self._state = state
        self._lost = on_lost
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
        """Write nothing more: waiting callers get the error."""
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
        finally:  # what is not durable is not listed
            for page, refs in changed.items():
                for ref in refs:
                    del page.open[ref]
        return [None] * len(group)

    def _page_with_room(self) -> _Page:
        """The page that is filled now; when it is full an emptier page, or a new one."""
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
            if stored is None or stored.value != value:  # each value has an id: an equal one is ours
                raise Conflict(f"{key} was written by another")
            etag = stored.etag
        page.etag = etag


class Watches:
    """The lists of all incarnations of an app: which there are, and how one is adopted."""

    def __init__(self, state: State, lease: WorkerLease, app_id: str) -> None:
        self._state = state
        self._lease = lease
        self._key = state.key("watches", app_id)

    async def incarnations(self) -> list[str]:
        """The incarnations that have a list."""
        stored = await self._state.read(self._key)
        return from_json(stored.value)["incarnations"] if stored else []

    async def add(self, incarnation: str) -> None:
        """Make a list known, before anything is armed on it."""
        await self._change(lambda names: [*names, incarnation])

    async def remove(self, incarnation: str) -> None:
        """Forget a list."""
        await self._change(lambda names: [name for name in names if name != incarnation])

    async def listed(self, incarnation: str) -> list[ActorRef]:
        """Returns the actors on a list, which stays as it is."""
        names: list[str] = []
        for number in itertools.count(1):
            stored = await self._state.read(self._page_key(incarnation, number))
            page = from_json(stored.value) if stored else {}
            if "open" not in page:
                break
            names += page["open"]
        return [ActorRef.parse(name) for name in names]

    async def leave(self, refs: Iterable[ActorRef]) -> None:
        """Put actors on a list without a worker, for a worker that has their types."""
        orphans = WatchList(self._state, f"left-{new_id()}", lambda: None)
        await asyncio.gather(*filter(None, map(orphans.arm, refs)))
        await self.add(orphans.incarnation)

    async def close(self, incarnation: str, adopter: str) -> list[ActorRef] | None:
        """Close a list, so that its worker, should it wake, writes no more on it; returns who was on it.

        None where another that is alive is adopting it.
        """
        names: list[str] = []
        for number in itertools.count(1):
            page = await self._close(self._page_key(incarnation, number), adopter)
            if page is None:
                return None
            if "open" not in page:
                break
            names += page["open"]
        return [ActorRef.parse(name) for name in names]

    def _page_key(self, incarnation: str, number: int) -> str:
        return self._state.key("watch", incarnation, str(number))

    async def _close(self, key: str, adopter: str) -> dict[str, Any] | None:
        """Mark a page as closed, and return it. A page that was closed before keeps its content."""
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
            if (changed_names := change(names)) == names:
                return
            value = _document(incarnations=changed_names)
            with suppress(Conflict):
                await self._state.swap(Write(self._key, value, stored.etag if stored else None))
                return


def _document(**content: Any) -> bytes:
    """A value that differs from every other one, so that its writer knows it again."""
    return to_json({"v": 1, "by": new_id(), **content})

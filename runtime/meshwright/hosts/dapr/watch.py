"""The watch list: which actors are owed something, written down before anybody is told of it.

A reminder for each task would cost a third of the rate, so a worker writes the names of its open actors
into a few documents, and one reminder stands for all of them. It goes to whoever is alive: where the
worker that it names is gone, the list is adopted and each actor on it woken.

    watches/{app}               the incarnations that have a list; what every worker sweeps
    watch/{incarnation}         the numbers of its documents
    watch/{incarnation}/{n}     up to MAX_OPEN names

An entry is there before a reply, an ack or an effect rests on it; it leaves lazily. So one may be there
that is owed nothing: who looks finds that out and strikes it off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.envelope import ActorRef
from meshwright.errors import Conflict, HostError, StoreUnavailable
from meshwright.hosts.dapr.state import State, Write, over
from meshwright.messages import new_id

logger = logging.getLogger("meshwright.dapr")

MAX_OPEN = 256  # names in one document: what is written again for each group of new ones
ADOPTING_TTL_SECONDS = 30
CLOSED_TTL_SECONDS = 86_400  # long enough for a worker that sleeps to find its list closed


@dataclass(slots=True)
class Page:
    """One document of open actors, as it is wanted, and the etag of what is stored."""

    number: int
    open: dict[ActorRef, None] = field(default_factory=dict)
    etag: str | None = None
    written: bool = False
    dirty: bool = False


class WatchList:
    """The list of one incarnation. `arm` before anything rests on it, `disarm` when nothing does any more.

    `on_adopted` is called, once, where another has closed it: this worker was taken for gone.
    """

    def __init__(self, state: State, incarnation: str, on_adopted: Callable[[], None]) -> None:
        self._state = state
        self.incarnation = incarnation
        self._pages: dict[int, Page] = {}
        self._page_of: dict[ActorRef, Page] = {}
        self._current: Page | None = None
        self._index_etag: str | None = None
        self._index_written = False
        self._waiting: list[asyncio.Future[None]] = []
        self._unanswered: set[asyncio.Future[None]] = set()
        self._on_adopted = on_adopted
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

        Raises Conflict (from what is awaited) where another has adopted the list: this worker had lapsed.
        Raises the reason where the list is closed.
        """
        if self._closed is not None:
            raise self._closed
        known = self._page_of.get(ref)
        if known is not None and not known.dirty:
            return None
        if known is None:
            page = self._room()
            page.open[ref] = None
            page.dirty = True
            self._page_of[ref] = page
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._unanswered.add(future)
        future.add_done_callback(self._unanswered.discard)
        self._flush()
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
        for future in self._unanswered:
            if not future.done():
                future.set_exception(error)

    def _room(self) -> Page:
        """The page that is filled now: an emptier one where this is full, or a new one."""
        if self._current is None or len(self._current.open) >= MAX_OPEN:
            emptiest = min(self._pages.values(), key=lambda page: len(page.open), default=None)
            if emptiest is None or len(emptiest.open) > MAX_OPEN // 2:
                emptiest = self._pages[len(self._pages) + 1] = Page(len(self._pages) + 1)
                self._index_written = False
            self._current = emptiest
        return self._current

    def _flush(self) -> None:
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._write_all(), name="watch list")

    async def _write_all(self) -> None:
        while self._waiting:
            waiting = self._waiting
            self._waiting = list[asyncio.Future[None]]()
            try:
                if not self._index_written:
                    await self._write_index()
                pages = [page for page in self._pages.values() if page.dirty]
                await asyncio.gather(*map(self._write_page, pages))
            except (HostError, Conflict) as error:
                for future in waiting:
                    if not future.done():
                        future.set_exception(error)
                if isinstance(error, Conflict) and self._closed is None:
                    self._closed = StoreUnavailable(
                        f"another worker has taken up what {self.incarnation} did"
                    )
                    self._on_adopted()
            else:
                for future in waiting:
                    if not future.done():
                        future.set_result(None)

    async def _write_index(self) -> None:
        self._index_written = True
        value = _document(docs=list(self._pages))
        try:
            self._index_etag = await self._swap(("watch", self.incarnation), value, self._index_etag)
        except BaseException:  # a cancelled write too was not made
            self._index_written = False
            raise

    async def _write_page(self, page: Page) -> None:
        page.dirty = False
        value = _document(open=[str(ref) for ref in page.open])
        try:
            page.etag = await self._swap(("watch", self.incarnation, str(page.number)), value, page.etag)
        except BaseException:  # likewise
            page.dirty = True
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

    def __init__(self, state: State, app_id: str) -> None:
        self._state = state
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

    async def begin_adopting(
        self, incarnation: str, adopter: str, is_gone: Callable[[str], Awaitable[bool]]
    ) -> bool:
        """Whether this worker may adopt a list now: another that is alive may be at it."""
        key = self._state.key("adopting", incarnation)
        stored = await self._state.read(key)
        if stored is not None:
            other = from_json(stored.value)["adopter"]
            if other != adopter and not await is_gone(other):
                return False
        write = Write(key, _document(adopter=adopter), ttl_seconds=ADOPTING_TTL_SECONDS)
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
                await self._state.swap(over(Write(key, closed, ttl_seconds=CLOSED_TTL_SECONDS), stored))
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

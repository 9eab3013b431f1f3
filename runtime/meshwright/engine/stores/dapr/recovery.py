"""Recovery: who wakes what a worker left behind, and asks again for what the bus lost.

Every worker sweeps the lists of its app, when it starts and every few seconds, and adopts the lists of
workers whose lease has expired; actors of types that it does not have it leaves to a worker that has. And it
reviews its own open actors, with growing pauses, since a broker may have lost what they sent.

    watches/{app}               the incarnations that have a list; what every worker sweeps
    watch/{incarnation}/{n}     from 1: up to MAX_OPEN actors that are owed something

A reminder of Dapr's for each task would cost a third of the rate, so a worker writes its open actors into a
few documents. An actor is on the list before a reply, an acknowledgement or an effect rests on it, and leaves
it lazily: a review strikes off actors that are owed nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.core.errors import Conflict, HostError, MeshError, StoreUnavailable
from meshwright.core.ids import new_id
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.engine.kernel.store import Delivery, Receiver
from meshwright.engine.stores.dapr.documents import Document, Documents, incarnation_of
from meshwright.engine.stores.dapr.outbox import MAX_CARRIED, Outbox, StoredActor, StoredActors
from meshwright.engine.stores.dapr.sidecar import Options, Write
from meshwright.engine.stores.dapr.state import KNOWN_ALIVE_SECONDS, Grouping, State, WorkerLease

_logger = logging.getLogger("meshwright.dapr")

_REVIEW_SECONDS = 1.0  # how often the open actors are gone through for those whose time has come
_MAX_PAUSE_SECONDS = 60.0
_WOKEN_AT_ONCE = 32


class Recovery:
    """Loads actors, adopts the lists of workers that have gone, and reviews this worker's own."""

    def __init__(
        self,
        options: Options,
        receiver: Receiver,
        documents: Documents,
        lease: WorkerLease,
        watches: Watches,
        actors: StoredActors,
        outbox: Outbox,
    ) -> None:
        self._receiver = receiver
        self._documents = documents
        self._lease = lease
        self._watches = watches
        self._actors = actors
        self._outbox = outbox
        self._redrive_seconds = options.redrive_seconds
        # How long after a commit it is certain whether its worker lived on: longer than a lease.
        self._settled_seconds = options.lease_seconds + KNOWN_ALIVE_SECONDS
        self._seen_at: dict[ActorRef, tuple[int, float]] = {}
        self._due: dict[ActorRef, tuple[float, float]] = {}
        self._id = new_id()
        self._numbers = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []
        self._passed_over: set[str] = set()

    def start(self) -> None:
        """Begin: the first sweep comes at once."""
        self._tasks = [
            asyncio.create_task(self._sweep_on(), name="sweep"),
            asyncio.create_task(self._review_on(), name="review"),
        ]

    async def stop(self) -> None:
        """End. The list stays: the next worker resumes open work."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []

    # Lists of workers that have gone

    async def sweep(self) -> None:
        """Adopt every list whose worker is gone."""
        lists = await self._watches.incarnations()
        await asyncio.gather(
            *(_or_later(f"open work of worker {name}", partial(self._adopt, name)) for name in lists)
        )

    async def _adopt(self, incarnation: str) -> None:
        watch = self._actors.watch
        if watch is None or not await self._lease.has_expired(incarnation):
            return
        listed = await self._watches.listed(incarnation)
        if listed and not any(map(self._lives_here, listed)):
            self._pass_over(incarnation, listed)
            return
        # Closed first: should its worker wake, it can watch nothing more, so its commits fail.
        open_refs = await self._watches.close(incarnation, watch.incarnation)
        if open_refs is None:
            return
        refs = [ref for ref in open_refs if self._lives_here(ref)]
        # On our list before theirs is forgotten: if we go in between, others find them on one of both.
        await asyncio.gather(*filter(None, map(watch.arm, refs)))
        if others := set(open_refs).difference(refs):
            await self._watches.leave(others)
        await self._watches.remove(incarnation)
        if refs:
            _logger.info("%d open actors of worker %s are taken up", len(refs), incarnation)
        at_once = asyncio.Semaphore(_WOKEN_AT_ONCE)

        async def wake(ref: ActorRef) -> None:
            async with at_once:
                await self.review(ref, adopted=True)

        await asyncio.gather(*map(wake, refs))

    def _lives_here(self, ref: ActorRef) -> bool:
        return ref.type in self._receiver.kinds

    def _pass_over(self, incarnation: str, refs: list[ActorRef]) -> None:
        if incarnation not in self._passed_over:
            self._passed_over.add(incarnation)
            types = ", ".join(sorted({ref.type for ref in refs}))
            _logger.warning(
                "%d open actors of worker %s wait for a worker that has %s", len(refs), incarnation, types
            )

    async def _sweep_on(self) -> None:
        while True:
            await _or_later("open work of other workers", self.sweep)
            await asyncio.sleep(self._redrive_seconds)

    # This worker's own list

    async def _review_on(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_REVIEW_SECONDS, self._redrive_seconds))
            if self._actors.watch is not None:
                for ref in self._next_due(self._actors.watch, loop.time()):
                    await _or_later(str(ref), partial(self.review, ref))

    def _next_due(self, watch: WatchList, now: float) -> list[ActorRef]:
        """The actors whose time has come: each after pauses that double."""
        first = self._redrive_seconds
        times = {ref: self._due.get(ref, (now + first, first)) for ref in watch}
        due = [ref for ref, (at, _) in times.items() if at <= now]
        for ref in due:
            pause = min(2 * times[ref][1], _MAX_PAUSE_SECONDS)
            times[ref] = now + pause, pause
        self._due = times
        return due

    async def review(self, ref: ActorRef, *, adopted: bool = False) -> None:
        """Look at an open actor of this worker's list: strike it off, or ask again for what it waits for.

        An actor that another worker has, or whose messages only others have to send, is let go once those
        have lived on after its last commit, and so watch it. With `adopted`, all of it is taken over.
        """
        actor = await self._owed(ref, adopted=adopted)
        document = actor.document if actor is not None else None
        if actor is None or document is None:
            return
        writer = incarnation_of(document.by[0]) if document.by else ""
        is_ours = writer == self._receiver.incarnation
        if not adopted and not actor.outbox:
            others_watch = not is_ours and not await self._lease.has_expired(writer)
            if others_watch or actor.only_carries:
                if self._has_lasted(ref, document.record.revision):
                    self._let_go(actor)
                return
        self._outbox.send(actor)
        if adopted and document.record.wake_at is not None:
            self._receiver.wake([ref], "wake")
        if document.record.has_pending_work:
            await self._ask_again(ref, recover=adopted or not is_ours, redrive=not self._waits(actor))

    async def _owed(self, ref: ActorRef, *, adopted: bool) -> StoredActor | None:
        """The actor as the store has it, if it is owed anything; else it is let go."""
        if not self._lives_here(ref):
            _logger.warning("%s is open, and no such actor lives here", ref)
            return None
        actor = self._actors.active(ref)
        if actor is None:  # until the runtime loads it, it is looked at and dropped again
            actor = self._actors.find(ref)
            actor.is_evicted = True
        elif not adopted and (actor.is_committing or actor.to_deliver):
            return None
        await self._refresh(actor, take_over=adopted)
        if actor.is_committing or actor.document is None:  # the commit under way sees to it
            return None
        if actor.is_owed:
            return actor
        self._let_go(actor)
        return None

    def _has_lasted(self, ref: ActorRef, revision: int) -> bool:
        """Whether an actor has stood at a revision for longer than any lease lasts after it."""
        now = asyncio.get_running_loop().time()
        earlier, since = self._seen_at.get(ref, (0, now))
        if earlier != revision:
            self._seen_at[ref] = (revision, now)
        return earlier == revision and now - since > self._settled_seconds

    def _waits(self, actor: StoredActor) -> bool:
        """Whether a message waits for a process that runs its type: a redrive would add another."""
        sent = (entry.item for entry in actor.outbox)
        return any(isinstance(item, Message) and self._outbox.is_missing(item.to.type) for item in sent)

    async def _ask_again(self, ref: ActorRef, *, recover: bool, redrive: bool) -> None:
        kind = self._receiver.kinds[ref.type]
        turns = ["recover"] * (recover and kind.recovers) + ["redrive"] * (redrive and kind.redrives)
        for turn in turns:
            self._receiver.admit(ref)
            reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            message = Message(f"{turn}/{self._id}/{next(self._numbers)}", ref, turn)
            self._receiver.deliver(Delivery(message, reply=reply))
            await reply

    def _let_go(self, actor: StoredActor) -> None:
        self._seen_at.pop(actor.ref, None)
        self._actors.let_go(actor.ref)
        if actor.is_evicted:
            self._actors.evict(actor)

    # Documents

    async def load(self, actor: StoredActor) -> Document:
        """Read the document of an actor."""
        document, etag = await self._documents.read(actor.ref)
        self._go_on_with(actor, document, etag, await self._alive(document))
        actor.is_fresh = True
        return document

    async def _refresh(self, actor: StoredActor, *, take_over: bool) -> None:
        """Read the document of an actor again, unless a commit of it is under way.

        With `take_over` this worker sends all of its messages, whoever committed them.
        """
        before = actor.etag
        if actor.is_committing:
            return
        document, etag = await self._documents.read(actor.ref)
        alive = set[str]() if take_over else await self._alive(document)
        # A commit that came while the document was read knows better.
        is_still = not actor.is_committing and actor.etag == before
        if is_still and (actor.document is None or etag != before or actor.carried or take_over):
            self._go_on_with(actor, document, etag, alive)

    def _go_on_with(self, actor: StoredActor, document: Document, etag: str | None, alive: Set[str]) -> None:
        """Go on with a document. Messages of live workers are carried, and left to them."""
        ids = {entry.item.id for entry in actor.outbox} | set(actor.ended_ids)
        new_entries = [entry for entry in document.outbox if entry.item.id not in ids]
        carried = [entry for entry in new_entries if entry.by in alive]
        # With too many of them this worker sends them as well: receivers drop repeats.
        actor.carried = carried if len(carried) <= MAX_CARRIED else []
        # The older ones first, so that each receiver gets them in order.
        actor.outbox = [*(entry for entry in new_entries if entry not in actor.carried), *actor.outbox]
        self._actors.adopt(actor, document, etag)

    async def _alive(self, document: Document) -> set[str]:
        """The other workers alive that have something to send for this actor."""
        others = {entry.by for entry in document.outbox} - {self._receiver.incarnation}
        return {by for by in others if not await self._lease.has_expired(by)}


async def _or_later(what: str, look: Callable[[], Awaitable[None]]) -> None:
    try:
        await look()
    except MeshError as error:
        _logger.warning("%s: looked at again later: %s", what, error)


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

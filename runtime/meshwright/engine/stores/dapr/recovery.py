"""Recovery: who wakes what a worker left behind, and asks again for what the bus lost.

Every worker sweeps the lists of its app, when it starts and every few seconds, and adopts the lists of
workers whose lease has expired; actors of types that it does not have it leaves to a worker that has. And it
reviews its own open actors, with growing pauses, since a broker may have lost what they sent.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Set
from functools import partial
from typing import Any

from meshwright.core.errors import MeshError
from meshwright.core.ids import new_id
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.engine.kernel.store import Delivery, Receiver
from meshwright.engine.stores.dapr.documents import Document, Documents, parse_incarnation
from meshwright.engine.stores.dapr.outbox import MAX_CARRIED, Outbox, StoredActor, StoredActors
from meshwright.engine.stores.dapr.sidecar import Options
from meshwright.engine.stores.dapr.state import KNOWN_ALIVE_SECONDS, WorkerLease
from meshwright.engine.stores.dapr.watches import Watches, WatchList

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
        writer = parse_incarnation(document.by[0]) if document.by else ""
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

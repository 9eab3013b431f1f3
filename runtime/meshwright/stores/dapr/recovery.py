"""Recovery: who wakes what a worker left behind, and asks again for what the bus lost.

Three things lead here. A reminder of the scheduler names an incarnation whose lease has expired: its list is
adopted. A worker sweeps all lists when it starts and now and then, which needs no scheduler and gives a
scheduler that lost its data its reminders back. And a worker reviews its own open actors, with growing
pauses, since a broker may have lost what they sent.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Coroutine, Set
from typing import Any

from meshwright.envelope import ActorRef, Message
from meshwright.errors import MeshError
from meshwright.kernel.store import Delivery, Receiver
from meshwright.messages import new_id
from meshwright.stores.dapr.documents import Document, Documents, incarnation_of
from meshwright.stores.dapr.leases import KNOWN_ALIVE_SECONDS, Lease, Watches, WatchList
from meshwright.stores.dapr.outbox import MAX_CARRIED, Outbox, StoredActor, StoredActors
from meshwright.stores.dapr.sidecar import Options, Sidecar

logger = logging.getLogger("meshwright.dapr")

_REMINDER = "watch"
SWEEP_SECONDS = 30.0
_REVIEW_SECONDS = 1.0  # how often the open actors are gone through for those whose time has come
MAX_PAUSE_SECONDS = 60.0
_WOKEN_AT_ONCE = 32


class Reactivation:
    """Loads actors, wakes those that are owed something, and lets go of those that are not."""

    def __init__(
        self,
        options: Options,
        receiver: Receiver,
        documents: Documents,
        lease: Lease,
        actors: StoredActors,
        outbox: Outbox,
    ) -> None:
        self._receiver = receiver
        self._documents = documents
        self._lease = lease
        self._actors = actors
        self._outbox = outbox
        # How long after a commit it is certain whether its worker lived on: longer than a lease.
        self._settled_seconds = options.lease_seconds + KNOWN_ALIVE_SECONDS
        self._seen_at: dict[ActorRef, tuple[int, float]] = {}
        self._id = new_id()
        self._numbers = itertools.count(1)

    async def load(self, actor: StoredActor) -> Document:
        """Read the document of an actor."""
        document, etag = await self._documents.read(actor.ref)
        self._adopt(actor, document, etag, await self._alive(document))
        actor.is_fresh = True
        return document

    async def recover(self, ref: ActorRef) -> None:
        """Wake an actor that a worker left behind: send what it sent, and ask again for what it waits for."""
        actor = await self._owed(ref, take_over=True)
        if actor is None or actor.document is None:
            return
        self._outbox.send(actor)
        if actor.document.record.wake_at is not None:
            self._receiver.wake([ref], "wake")
        if actor.document.record.has_pending_work:
            await self._ask_again(ref, recover=True)

    async def review(self, ref: ActorRef) -> None:
        """Look at an open actor of this worker's list: strike it off, or ask again for what it waits for.

        One in the hands of another worker is let go once that one has lived on after its commit, and so
        watches it.
        """
        actor = self._actors.active(ref)
        if actor is not None and (actor.is_committing or actor.to_deliver):
            return
        if actor is not None and actor.only_carries:
            await self._review_carried(actor)
            return
        actor = await self._owed(ref)
        document = actor.document if actor is not None else None
        if actor is None or document is None:
            return
        writer = incarnation_of(document.by[0]) if document.by else ""
        is_ours = writer == self._receiver.incarnation
        if not is_ours and not actor.outbox and not await self._lease.is_known_expired(writer):
            if self._has_lasted(ref, document.record.revision):
                self._let_go(actor)
            return
        self._outbox.send(actor)
        if document.record.has_pending_work:
            await self._ask_again(ref, recover=not is_ours)

    async def _review_carried(self, actor: StoredActor) -> None:
        """See whether who has to send what this actor carries is alive, and by now certain to watch it."""
        if any([await self._lease.is_known_expired(entry.by) for entry in actor.carried]):
            await self._refresh(actor)
            self._outbox.send(actor)
        elif asyncio.get_running_loop().time() - actor.used_at > self._settled_seconds:
            self._let_go(actor)

    def _has_lasted(self, ref: ActorRef, revision: int) -> bool:
        """Whether an actor has stood at a revision for longer than any lease lasts after it."""
        now = asyncio.get_running_loop().time()
        known, since = self._seen_at.get(ref, (0, now))
        if known != revision:
            self._seen_at[ref] = (revision, now)
        return known == revision and now - since > self._settled_seconds

    async def _owed(self, ref: ActorRef, *, take_over: bool = False) -> StoredActor | None:
        """The actor as the store has it, if it is owed anything; else it is let go."""
        if ref.type not in self._receiver.kinds:
            logger.warning("%s is open, and no such actor lives here", ref)
            return None
        actor = self._actors.active(ref)
        if actor is None:  # until the runtime loads it, it is looked at and dropped again
            actor = self._actors.find(ref)
            actor.is_evicted = True
        await self._refresh(actor, take_over=take_over)
        if actor.is_committing or actor.document is None:  # the commit under way sees to it
            return None
        if actor.is_owed:
            return actor
        self._let_go(actor)
        return None

    async def _ask_again(self, ref: ActorRef, *, recover: bool) -> None:
        kind = self._receiver.kinds[ref.type]
        for turn in (*(["recover"] * (recover and kind.recovers)), *(["redrive"] * kind.redrives)):
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

    async def _refresh(self, actor: StoredActor, *, take_over: bool = False) -> None:
        """Read the document of an actor again, unless a commit of it is under way.

        With `take_over` all that it has to send is sent by this worker, whoever committed it.
        """
        before = actor.etag
        if actor.is_committing:
            return
        document, etag = await self._documents.read(actor.ref)
        alive = set[str]() if take_over else await self._alive(document)
        is_still = not actor.is_committing and actor.etag == before
        if is_still and (actor.document is None or etag != before or actor.carried or take_over):
            self._adopt(actor, document, etag, alive)

    def _adopt(self, actor: StoredActor, document: Document, etag: str | None, alive: Set[str]) -> None:
        """Go on with a document. What others that are alive have to send is carried, and left to them."""
        known = {entry.item.id for entry in actor.outbox} | set(actor.ended)
        found = [entry for entry in document.outbox if entry.item.id not in known]
        carried = [entry for entry in found if entry.by in alive]
        actor.carried = carried if len(carried) <= MAX_CARRIED else []
        actor.outbox = [*(entry for entry in found if entry not in actor.carried), *actor.outbox]
        self._actors.adopt(actor, document, etag)

    async def _alive(self, document: Document) -> set[str]:
        """Which other workers live, of those that have something to send for this actor."""
        others = {entry.by for entry in document.outbox} - {self._receiver.incarnation}
        return {by for by in others if not await self._lease.is_known_expired(by)}


class _ReviewSchedule:
    """When each open actor is reviewed next: after pauses that double."""

    def __init__(self, first_pause_seconds: float) -> None:
        self._first_pause_seconds = first_pause_seconds
        self._due: dict[ActorRef, tuple[float, float]] = {}

    def due(self, watch: WatchList, now: float) -> list[ActorRef]:
        """Those whose time has come; one that is on the list for the first time gets its own."""
        self._due = {ref: times for ref, times in self._due.items() if ref in watch}
        due = []
        for ref in watch:
            known = self._due.get(ref)
            if known is None:
                self._due[ref] = now + self._first_pause_seconds, self._first_pause_seconds
            elif known[0] <= now:
                pause = min(2 * known[1], MAX_PAUSE_SECONDS)
                self._due[ref] = now + pause, pause
                due.append(ref)
        return due


class Recovery:
    """Adopts the lists of workers that have gone, and reviews this worker's own."""

    def __init__(
        self,
        options: Options,
        sidecar: Sidecar,
        lease: Lease,
        watches: Watches,
        actors: StoredActors,
        reactivation: Reactivation,
    ) -> None:
        self.actor_type = f"{options.app_id}-watch"
        self._sidecar = sidecar
        self._lease = lease
        self._watches = watches
        self._actors = actors
        self._reactivation = reactivation
        self._redrive_seconds = options.redrive_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._adopting: set[str] = set()

    def start(self) -> None:
        """Begin: the first sweep comes at once."""
        self._tasks = [
            asyncio.create_task(self._sweep_on(), name="sweep"),
            asyncio.create_task(self._review_on(), name="review"),
        ]

    async def stop(self) -> None:
        """End. The list stays: whoever comes next goes on with what is open."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []

    async def sweep(self) -> None:
        """Adopt every list whose worker is gone, and give the scheduler the reminders of all others."""
        for incarnation in await self._watches.incarnations():
            try:
                if not await self._adopt(incarnation):
                    reminder = self._reminder(incarnation)
                    await self._sidecar.remind(reminder, _REMINDER, self._redrive_seconds)
            except MeshError as error:  # without a scheduler too every list gets its look
                logger.warning("the open work of worker %s is looked for again later: %s", incarnation, error)

    async def on_reminder(self, incarnation: str) -> None:
        """A list's reminder has come to this worker."""
        if incarnation in await self._watches.incarnations():
            await self._adopt(incarnation)
        else:
            await self._sidecar.forget_reminder(self._reminder(incarnation), _REMINDER)

    async def _adopt(self, incarnation: str) -> bool:
        """Take over the list of a worker that is gone. False where it is not, or another is at it."""
        watch = self._actors.watch
        if watch is None or incarnation in self._adopting or not await self._lease.has_expired(incarnation):
            return False
        self._adopting.add(incarnation)
        try:
            if not await self._watches.begin_adopting(incarnation, watch.incarnation):
                return False
            await self._take_over(incarnation, watch)
        finally:
            self._adopting.discard(incarnation)
        return True

    async def _take_over(self, incarnation: str, watch: WatchList) -> None:
        refs = await self._watches.close(incarnation)
        await asyncio.gather(*filter(None, map(watch.arm, refs)))
        await self._watches.remove(incarnation)
        if refs:
            logger.info("%d open actors of worker %s are taken up", len(refs), incarnation)
        at_once = asyncio.Semaphore(_WOKEN_AT_ONCE)

        async def wake(ref: ActorRef) -> None:
            async with at_once:
                await self._reactivation.recover(ref)

        await asyncio.gather(*map(wake, refs))
        await self._sidecar.forget_reminder(self._reminder(incarnation), _REMINDER)

    def _reminder(self, incarnation: str) -> ActorRef:
        return ActorRef(self.actor_type, incarnation)

    async def _sweep_on(self) -> None:
        while True:
            await _or_later("open work of other workers", self.sweep())
            await asyncio.sleep(SWEEP_SECONDS)

    async def _review_on(self) -> None:
        loop = asyncio.get_running_loop()
        schedule = _ReviewSchedule(self._redrive_seconds)
        while True:
            await asyncio.sleep(min(_REVIEW_SECONDS, self._redrive_seconds))
            if self._actors.watch is not None:
                for ref in schedule.due(self._actors.watch, loop.time()):
                    await _or_later(str(ref), self._reactivation.review(ref))


async def _or_later(what: str, look: Coroutine[Any, Any, None]) -> None:
    try:
        await look
    except MeshError as error:
        logger.warning("%s: looked at again later: %s", what, error)

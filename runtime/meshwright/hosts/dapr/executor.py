"""The executor: takes what waits for a cell, runs the turns, commits them by one swap, and tells."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from meshwright.actor import Actor
from meshwright.clock import Clock
from meshwright.envelope import ActorRecord, ActorRef
from meshwright.errors import Conflict, StoreUnavailable
from meshwright.host import dead_letter
from meshwright.hosts.dapr.cells import Cell, Delivery, Documents, without_alarm
from meshwright.hosts.dapr.documents import Document, Entry, incarnation_of
from meshwright.hosts.dapr.futures import ENDED, looked_at, settle
from meshwright.hosts.dapr.loader import Loader
from meshwright.hosts.dapr.records import Records
from meshwright.hosts.dapr.watch import WatchList
from meshwright.messages import Event
from meshwright.tracing import NoTracing, Tracing
from meshwright.turns import Commit, take_turn

MAX_TURNS_A_COMMIT = 32
CONFLICT_PAUSE_SECONDS = 0.02
UNTRACED = NoTracing()


@dataclass(slots=True)
class Taken:
    """What the turns of one go came to, in order: each delivery with its commit or its error."""

    ends: list[tuple[Delivery, Commit | Exception]] = field(default_factory=list)
    head: ActorRecord | None = None
    refused: list[Event] = field(default_factory=list)

    @property
    def commits(self) -> list[Commit]:
        """Those that change something."""
        return [end for _, end in self.ends if isinstance(end, Commit) and end.changed]


@dataclass(slots=True)
class Tells:
    """What the host does with what is committed: signals, alarms, the outbox."""

    signal: Callable[[ActorRef, Sequence[Any]], None]
    set_alarm: Callable[[ActorRef, datetime | None], None]
    send: Callable[[Cell], None]
    emit: Callable[[Sequence[Event]], Awaitable[None]]


class Executor:
    """Runs the turns of cells, one go of a cell at a time."""

    def __init__(
        self,
        documents: Documents,
        loader: Loader,
        records: Records,
        clock: Clock,
        tracing: Tracing | NoTracing,
        tells: Tells,
        commit_name: Callable[[], str],
        max_record_bytes: int,
    ) -> None:
        self._documents = documents
        self._loader = loader
        self._records = records
        self._clock = clock
        self._tracing = tracing
        self._tells = tells
        self._commit_name = commit_name
        self._max_bytes = max_record_bytes
        self._seems_new: dict[tuple[str, str], bool] = {}
        self.watch: WatchList | None = None

    async def run(self, cell: Cell) -> None:
        """Take what waits for a cell until nothing does. Never raises for what a turn or the store did."""
        conflicts = 0
        while cell.mailbox:
            size = min(len(cell.mailbox), MAX_TURNS_A_COMMIT)
            deliveries = [cell.mailbox.popleft() for _ in range(size)]
            try:
                await self._go(cell, deliveries, contested=conflicts > 0)
                conflicts = 0
            except Conflict:
                cell.forget()
                self._seems_new[cell.kind.type, deliveries[0].message.method] = False
                cell.mailbox.extendleft(reversed(deliveries))
                conflicts += 1
                if conflicts > 1:  # another worker is at the same actor: one of us has to wait
                    await asyncio.sleep(CONFLICT_PAUSE_SECONDS * random.uniform(0.5, min(conflicts, 10)))
            except Exception as error:  # noqa: BLE001 whatever the store did, who waits is told
                cell.forget()
                refuse(deliveries, error)
            except asyncio.CancelledError:
                refuse(deliveries, ENDED)
                raise

    async def _go(self, cell: Cell, deliveries: list[Delivery], *, contested: bool) -> None:
        """One go. An actor that keeps nothing is not read, unless a swap has shown that it is there."""
        first = cell.document is None
        guessed = first and not contested and self._guesses_new(cell, deliveries[0])
        if guessed:
            cell.document = Document()
        elif first:
            await self._loader.load(cell)
            self._seems_new[cell.kind.type, deliveries[0].message.method] = cell.etag is None
        taken = self._take(cell, deliveries)
        if taken.commits:
            await self._commit(cell, taken)
        elif first and not guessed:
            await self._take_up(cell)
        elif not is_stateless(cell) and await self._documents.etag(cell.ref) != cell.etag:
            raise Conflict(f"{cell.ref} was changed by another worker")
        await self._tell(cell, taken)

    def _guesses_new(self, cell: Cell, delivery: Delivery) -> bool:
        """Whether to try without reading first: the last actor that this turn activated was new too.

        A wrong guess is found out by the swap, and costs one more.
        """
        return is_stateless(cell) or self._seems_new.get((cell.kind.type, delivery.message.method), False)

    async def _take_up(self, cell: Cell) -> None:
        """Watch and send what is owed, though no turn changed it: who did may have ended just then."""
        assert cell.document is not None
        if owes(cell.document):
            armed = self._watching().arm(cell.ref)
            if armed is not None:
                await armed
            self._tells.send(cell)

    # Turns

    def _take(self, cell: Cell, deliveries: Sequence[Delivery]) -> Taken:
        taken = Taken(head=cell.head)
        for delivery in deliveries:
            assert taken.head is not None
            if delivery.alarm and not self._is_due(taken.head):
                taken.ends.append((delivery, Commit(cell.ref, delivery.message, taken.head, changed=False)))
                continue
            end = self._turn(cell, taken.head, delivery)
            if isinstance(end, Exception) and not delivery.is_call:
                taken.refused.append(dead_letter(delivery.message, end, self._clock.now()))
                if delivery.alarm:
                    end = without_alarm(taken.head, delivery.message)
            if isinstance(end, Commit) and end.changed:
                taken.head = end.record
            taken.ends.append((delivery, end))
        return taken

    def _turn(self, cell: Cell, head: ActorRecord, delivery: Delivery) -> Commit | Exception:
        message = delivery.message
        tracing = self._tracing if message.traceparent is not None else UNTRACED
        with tracing.span(f"turn {cell.ref.type}.{message.method}", parent=message.traceparent) as span:
            actor = self._actor(cell, head)
            try:
                return take_turn(
                    cell.kind,
                    actor,
                    head,
                    message,
                    self._clock.now(),
                    remember=delivery.once,
                    traceparent=span.traceparent,
                    max_bytes=self._max_bytes,
                )
            except Exception as error:  # noqa: BLE001 whatever a turn raises, its sender is told
                span.fail(error)
                cell.actor = None  # its state may be half changed
                return error

    def _actor(self, cell: Cell, head: ActorRecord) -> Actor[Any]:
        if cell.actor is None:
            cell.actor = cell.kind.activate(cell.ref, head)
        return cell.actor

    def _is_due(self, head: ActorRecord) -> bool:
        return head.wake_at is not None and head.wake_at <= self._clock.now()

    # Commits

    async def _commit(self, cell: Cell, taken: Taken) -> None:
        """Records first, then the document, with the actor on the watch list beside it."""
        assert taken.head is not None and cell.document is not None
        watch = self._watching()
        name = self._commit_name()
        entries = [entry for commit in taken.commits for entry in in_order(commit, incarnation_of(name))]
        records = [record for commit in taken.commits for record in commit.records]
        if records or cell.writes:
            writes = [*cell.writes, *(self._records.put(record) for record in records)]
            for write in writes:
                with suppress(Conflict):  # there was one of that number, which stands
                    await asyncio.shield(write)
        document = Document(
            taken.head, [*cell.carried, *cell.outbox, *entries], (name, *cell.document.by[:3])
        )
        armed = watch.arm(cell.ref) if owes(document) else None
        if armed is not None:
            armed.add_done_callback(looked_at)
        swap = await self._documents.begin_swap(cell.ref, document, cell.etag)
        try:
            etag = await swap
        except Conflict:
            found, _ = await self._documents.read(cell.ref)
            if name not in found.by:
                raise
            etag = None  # ours it was, and another's came on top of it already
        if armed is not None:
            await self._watched(cell, armed)
        cell.document, cell.etag = document, etag
        cell.outbox += entries
        if etag is None:
            cell.forget()

    def _watching(self) -> WatchList:
        if self.watch is None:
            raise StoreUnavailable("this worker could not renew its lease in time, and begins anew")
        return self.watch

    async def _watched(self, cell: Cell, armed: Awaitable[None]) -> None:
        try:
            await armed
        except Conflict as error:
            raise StoreUnavailable(f"{cell.ref} is not watched: {error}") from error

    # Telling

    async def _tell(self, cell: Cell, taken: Taken) -> None:
        """Only now does anything leave."""
        for _, end in taken.ends:
            if isinstance(end, Commit):
                self._tells.signal(cell.ref, end.early)
        if taken.commits:
            assert taken.head is not None
            self._tells.set_alarm(cell.ref, taken.head.wake_at)
            self._tells.send(cell)
        for _, end in taken.ends:
            if isinstance(end, Commit):
                self._tells.signal(cell.ref, end.after_commit)
        if taken.refused:
            await self._tells.emit(taken.refused)
        for delivery, end in taken.ends:
            if isinstance(end, Commit):
                settle(delivery.reply, end.reply, None)
            else:
                settle(delivery.reply, None, end if delivery.is_call else None)


def owes(document: Document) -> bool:
    """Whether an actor has to be woken if its worker goes."""
    return document.head.has_pending_work or document.head.wake_at is not None or bool(document.outbox)


def is_stateless(cell: Cell) -> bool:
    """Whether the actor's kind keeps nothing, so that there is nothing to read."""
    return not cell.kind.state_type.model_fields


def in_order(commit: Commit, by: str) -> list[Entry]:
    """What a turn sent, messages and events, in the order in which it did."""
    if not commit.sends:
        return [Entry(event, by) for event in commit.events]
    entries = [Entry(item, by) for item in (*commit.sends, *commit.events)]
    return sorted(entries, key=lambda entry: int(entry.id.rpartition("/")[2]))


def refuse(deliveries: Iterable[Delivery], error: Exception) -> None:
    """Tell whoever waits that it did not happen, or that nobody can say whether it did."""
    for delivery in deliveries:
        settle(delivery.reply, None, error)

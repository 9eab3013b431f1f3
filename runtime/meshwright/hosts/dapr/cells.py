"""Cells: the actors that are active in this process, each with its document and its mailbox.

A cell takes what waits for it in one go: the turns run one after another on its state, and one swap of its
document commits them all. Where another worker's commit came first, the document is read again and the
turns run again: they are plain functions.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic_core import from_json

from meshwright.actor import Actor
from meshwright.envelope import ActorRecord, ActorRef, Message
from meshwright.errors import Conflict, NotFound, StoreUnavailable
from meshwright.hosts.dapr.documents import VALUES, Document, Entry, put_back, take_out
from meshwright.hosts.dapr.state import State, Write
from meshwright.turns import ActorKind, Commit

MAX_KNOWN_VALUES = 1000
MAX_ENDED = 64


@dataclass(slots=True, eq=False)
class Delivery:
    """A message on its way to its turn, and who awaits what comes of it.

    `once`: the message may come again, so its id is remembered. `alarm`: it counts only while it is due.
    `is_call`: what the turn raises goes to the caller; else it becomes a dead letter.
    """

    message: Message
    reply: asyncio.Future[Any]
    once: bool = False
    alarm: bool = False
    is_call: bool = False


@dataclass(slots=True, eq=False)
class Cell:
    """One active actor. `document` is None until it is read; `etag` is None where there is none in the store.

    `outbox` holds what is not kept or not delivered yet, in order, and `to_deliver` what of it is to be
    delivered; `ended` are the ids of the last that are both. `carried` is what another worker that lives has
    to send: it stays in the document, for whoever comes after that one. `writes` are the records
    under way, which come before the next commit.
    """

    ref: ActorRef
    kind: ActorKind
    document: Document | None = None
    etag: str | None = None
    actor: Actor[Any] | None = None
    mailbox: deque[Delivery] = field(default_factory=deque)
    outbox: list[Entry] = field(default_factory=list)
    to_deliver: deque[Entry] = field(default_factory=deque)
    ended: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_ENDED))
    carried: list[Entry] = field(default_factory=list)
    writes: set[asyncio.Future[Any]] = field(default_factory=set)
    working: bool = False
    relaying: bool = False
    used_at: float = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether a turn, a record or a delivery is under way."""
        return bool(self.mailbox or self.writes or self.working or self.to_deliver)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, nor waits for the log, so that the cell may be dropped."""
        return not (self.is_busy or self.outbox)

    @property
    def only_carries(self) -> bool:
        """Whether all that the actor is owed is what other workers have to send."""
        document = self.document
        if document is None or self.outbox or not self.carried:
            return False
        return not document.head.has_pending_work and document.head.wake_at is None

    @property
    def head(self) -> ActorRecord:
        """The head as it was read or committed last."""
        assert self.document is not None
        return self.document.head

    def forget(self) -> None:
        """Read the document again before the next turn."""
        self.document = self.etag = self.actor = None


class Cells:
    """The cells of this process. Idle ones beyond `max_active`, or unused for long, are dropped."""

    def __init__(self, max_active: int) -> None:
        self.kinds: dict[str, ActorKind] = {}
        self._max_active = max_active
        self._cells: OrderedDict[ActorRef, Cell] = OrderedDict()

    def __iter__(self) -> Iterator[Cell]:
        return iter(list(self._cells.values()))

    def __len__(self) -> int:
        return len(self._cells)

    def active(self, ref: ActorRef) -> Cell | None:
        """The cell of an actor, if it has one."""
        return self._cells.get(ref)

    def find(self, ref: ActorRef, now: float) -> Cell:
        """The cell of an actor, made if need be. Raises NotFound where its kind does not live here."""
        cell = self._cells.get(ref)
        if cell is None:
            kind = self.kinds.get(ref.type)
            if kind is None:
                raise NotFound(f"no actor type {ref.type!r} is registered", field="type")
            cell = self._cells[ref] = Cell(ref, kind)
        else:
            self._cells.move_to_end(ref)
        cell.used_at = now
        return cell

    def trim(self, unused_since: float) -> None:
        """Drop idle cells: the least recently used first, as many as are too many or long unused."""
        for ref, cell in list(self._cells.items()):
            if len(self._cells) <= self._max_active and cell.used_at > unused_since:
                return
            if cell.idle:
                del self._cells[ref]

    def drop(self, ref: ActorRef) -> None:
        """Drop an actor's cell if it is idle."""
        cell = self._cells.get(ref)
        if cell is not None and cell.idle:
            del self._cells[ref]


class Documents:
    """Reads and swaps the documents of actors, their large values apart."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known_values: OrderedDict[str, None] = OrderedDict()

    def key(self, ref: ActorRef) -> str:
        """The key of an actor's document."""
        return self._state.key("actor", ref.type, ref.id)

    async def read(self, ref: ActorRef) -> tuple[Document, str | None]:
        """An actor's document and its etag; a new one, without, where it never had a turn."""
        stored = await self._state.read(self.key(ref))
        if stored is None:
            return Document(), None
        data = from_json(stored.value)
        if VALUES in data:
            data = put_back(data, await self._values(ref, data[VALUES]))
        return Document.decode(data), stored.etag

    async def begin_swap(
        self, ref: ActorRef, document: Document, etag: str | None
    ) -> asyncio.Future[str | None]:
        """Begin to write a document over the version of that etag, its large values being there.

        What is returned gives the new etag where it is known, or raises Conflict or StoreUnavailable.
        """
        data, values = take_out(document.encode())
        for name, value in values.items():
            await self._put_value(name, value)
        return self._state.swap(Write(self.key(ref), data, etag))

    async def etag(self, ref: ActorRef) -> str | None:
        """The etag of what is stored now."""
        stored = await self._state.read(self.key(ref))
        return stored.etag if stored else None

    async def _values(self, ref: ActorRef, names: list[str]) -> dict[str, bytes]:
        found = await asyncio.gather(*(self._state.read(self._state.key("value", name)) for name in names))
        missing = [name for name, value in zip(names, found, strict=True) if value is None]
        if missing:
            raise StoreUnavailable(
                f"{ref} refers to {len(missing)} values that the store has lost",
                remedy="restore the store from its backup: it must not evict or expire keys",
            )
        return {name: value.value for name, value in zip(names, found, strict=True) if value is not None}

    async def _put_value(self, name: str, value: bytes) -> None:
        if name not in self._known_values:
            with suppress(Conflict):  # it is there: its name is its content
                await self._state.swap(Write(self._state.key("value", name), value))
            self._known_values[name] = None
            if len(self._known_values) > MAX_KNOWN_VALUES:
                self._known_values.popitem(last=False)


def without_alarm(head: ActorRecord, message: Message) -> Commit:
    """The commit of an alarm whose turn raised: it must not go off for ever."""
    return Commit(message.to, message, replace(head, revision=head.revision + 1, wake_at=None))

"""Cells: the actors that are active in this process, each with its mailbox.

An actor is activated by its first message and deactivated when it has been idle, or when more are active
than may be; never while a commit of it is not durable, since the file would still hold an older state.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from meshwright.actor import Actor
from meshwright.envelope import ActorRecord, ActorRef, Message
from meshwright.errors import NotFound, StoreFailed
from meshwright.sql.database import Session
from meshwright.sql.sqlite import RESTORE, SqliteSession
from meshwright.turns import ActorKind

ROOM = 0.9  # of a limit, once it was passed: to look for idle actors again and again would take longer
SELECT_HEADS = "SELECT id, revision, last_turn, sent, wake_at, obliged, seen, state FROM heads WHERE type = ?"


@dataclass(slots=True)
class Delivery:
    """A message on its way to its turn: the mailbox row it came from, and who awaits the reply.

    One from `outside` may come again, and is remembered; one that a turn of this file sent cannot.
    """

    message: Message
    row: int | None = None
    outside: bool = False
    reply: asyncio.Future[Any] | None = None


class Cell:
    """One active actor. `head` is the last one handed to a group, None before the file was asked.

    `pending` counts groups not yet durable. `born_here` says that the file held nothing of the actor when
    it was activated: `records` are all it has then.
    """

    __slots__ = (
        "actor",
        "born_here",
        "head",
        "kind",
        "mailbox",
        "pending",
        "queued",
        "records",
        "ref",
        "used_at",
    )

    def __init__(self, ref: ActorRef, kind: ActorKind) -> None:
        self.ref = ref
        self.kind = kind
        self.head: ActorRecord | None = None
        self.actor: Actor[Any] | None = None
        self.mailbox: deque[Delivery] = deque()
        self.born_here = False
        self.records: set[tuple[str, int]] = set()
        self.pending = 0
        self.queued = False
        self.used_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether the cell may be dropped: nothing waits, and the file holds what it holds."""
        return not self.pending and not self.queued

    def activate(self, head: ActorRecord) -> Actor[Any]:
        """The actor with the state of its head, decoded if need be."""
        if self.actor is None:
            self.actor = self.kind.activate(self.ref, head)
        return self.actor

    def forget_state(self) -> None:
        """Fall back to the last queued head, after a turn that raised half way."""
        self.actor = None


class Cells:
    """The active actors of a host, least recently used first."""

    def __init__(self, max_active: int, max_bytes: int, on_failure: Callable[[StoreFailed], None]) -> None:
        self.kinds: dict[str, ActorKind] = {}
        self._max_active = max_active
        self._max_bytes = max_bytes
        self._bytes = 0
        self._on_failure = on_failure
        self._cells: OrderedDict[ActorRef, Cell] = OrderedDict()
        self._reader: Session | None = None
        self._file = Path()

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter(list(self._cells.values()))

    def open(self, reader: Session, file: Path) -> None:
        """Read heads through this connection; a point look-up costs less than a hop to a thread."""
        self._reader = reader
        self._file = file

    def close(self) -> None:
        """Drop every cell, and the connection."""
        self._cells.clear()
        self._bytes = 0
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def active(self, ref: ActorRef) -> Cell | None:
        """The cell of an actor that is active."""
        return self._cells.get(ref)

    def find(self, ref: ActorRef, now: float) -> Cell:
        """The cell of an actor, activated if need be. Raises NotFound for a type that nobody registered."""
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

    def load(self, cells: Sequence[Cell]) -> None:
        """Give cells that have no head the one in the file, or a new one: one look-up for each type.

        A look-up lets go of the interpreter lock, which a busy neighbour takes; so they are made together.
        """
        new: defaultdict[str, list[Cell]] = defaultdict(list)
        for cell in cells:
            if cell.head is None:
                new[cell.ref.type].append(cell)
        for kind, unread in new.items():
            stored = self.stored_heads(kind, [cell.ref.id for cell in unread])
            for cell in unread:
                self.set_head(cell, stored.get(cell.ref.id) or ActorRecord())
                cell.born_here = cell.ref.id not in stored

    def set_head(self, cell: Cell, head: ActorRecord) -> None:
        """Give a cell its head: what was read, or handed to a group."""
        self._bytes += len(head.state) - (len(cell.head.state) if cell.head is not None else 0)
        cell.head = head

    def stored_heads(self, kind: str, ids: Sequence[str]) -> dict[str, ActorRecord]:
        """The heads in the file of some actors of a type, by id."""
        query = f"{SELECT_HEADS} AND id IN ({','.join('?' * len(ids))})"
        return {row[0]: head_of(row[1:]) for row in self.read(query, (kind, *ids))}

    def read(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        """The rows of a short query; committed data only. Raises StoreFailed, having told the host."""
        assert self._reader is not None, "the host has not been started"
        try:
            return self._reader.execute(query, values).fetchall()
        except SqliteSession.errors as error:
            failure = StoreFailed(f"cannot read {self._file}: {error}", remedy=RESTORE)
            self._on_failure(failure)
            raise failure from error

    @property
    def are_too_many(self) -> bool:
        """Whether more are active than may be, or their states are larger."""
        return len(self._cells) > self._max_active or self._bytes > self._max_bytes

    def trim(self, idle_since: float) -> None:
        """Deactivate those idle since then and, over a limit, the least recently used until there is room."""
        share = ROOM if self.are_too_many else 1.0
        most, most_bytes = self._max_active * share, self._max_bytes * share
        count, size = len(self._cells), self._bytes
        dropped: list[ActorRef] = []
        for ref, cell in self._cells.items():
            if count <= most and size <= most_bytes and cell.used_at > idle_since:
                break
            if cell.idle:
                dropped.append(ref)
                count -= 1
                size -= len(cell.head.state) if cell.head is not None else 0
        for ref in dropped:
            del self._cells[ref]
        self._bytes = size


def head_of(row: tuple[Any, ...]) -> ActorRecord:
    """A head from its columns in `SELECT_HEADS`."""
    revision, last_turn, sent, wake_at, obliged, seen, state = row
    return ActorRecord(
        revision=revision,
        last_turn=last_turn,
        sent=sent,
        wake_at=datetime.fromtimestamp(wake_at, UTC) if wake_at is not None else None,
        has_pending_work=bool(obliged),
        processed_ids=from_json(seen) if seen else {},
        state=state,
    )

"""Active actors, each with its mailbox.

An actor is activated by its first message, and evicted when it has been idle for a while or when too many are
active; never while a commit of it is not durable, since the store would still hold an older state.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from meshwright.core.errors import NotFound
from meshwright.kernel.actor import Actor
from meshwright.kernel.envelope import ActorRecord, ActorRef
from meshwright.kernel.store import Delivery
from meshwright.kernel.turns import ActorKind

IDLE_SECONDS = 60.0
ROOM = 0.9  # of a limit, once it was passed: to look for idle actors again and again would take longer


class Cell:
    """One active actor.

    `record` is the last that a turn left, None before it was loaded. `pending` counts the batches with it
    that are not durable. `is_new` says that the store had no record of the actor when it was loaded, so that
    `stored` are all the records of streams that it has. `arriving` counts messages from outside that
    are being committed.
    """

    __slots__ = (
        "actor",
        "arriving",
        "is_new",
        "kind",
        "mailbox",
        "pending",
        "queued",
        "record",
        "ref",
        "stored",
        "used_at",
    )

    def __init__(self, ref: ActorRef, kind: ActorKind) -> None:
        self.ref = ref
        self.kind = kind
        self.record: ActorRecord | None = None
        self.actor: Actor[Any] | None = None
        self.mailbox: deque[Delivery] = deque()
        self.is_new = False
        self.stored: set[tuple[str, int]] = set()
        self.arriving = 0
        self.pending = 0
        self.queued = False
        self.used_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether it may be evicted: nothing waits, and the store has what it holds."""
        return not (self.pending or self.queued or self.arriving)

    def forget(self) -> None:
        """Load it again before its next turn."""
        self.record = self.actor = None


class Cells:
    """The active actors of a runtime, least recently used first."""

    def __init__(
        self, max_active: int, max_bytes: int, evicted: Callable[[Sequence[ActorRef]], None]
    ) -> None:
        self.kinds: dict[str, ActorKind] = {}
        self._max_active = max_active
        self._max_bytes = max_bytes
        self._bytes = 0
        self._evicted = evicted
        self._cells: OrderedDict[ActorRef, Cell] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter(list(self._cells.values()))

    def kind(self, ref: ActorRef) -> ActorKind:
        """The kind of an actor. Raises NotFound if it is not registered."""
        kind = self.kinds.get(ref.type)
        if kind is None:
            raise NotFound(f"no actor type {ref.type!r} is registered", field="type")
        return kind

    def active(self, ref: ActorRef) -> Cell | None:
        """The cell of an actor that is active."""
        return self._cells.get(ref)

    def find(self, ref: ActorRef) -> Cell:
        """The cell of an actor, activated if need be. Raises NotFound."""
        cell = self._cells.get(ref)
        if cell is None:
            cell = self._cells[ref] = Cell(ref, self.kind(ref))
        else:
            self._cells.move_to_end(ref)
        cell.used_at = time.monotonic()
        return cell

    def set_record(self, cell: Cell, record: ActorRecord) -> None:
        """Give a cell its record: what was loaded, or what a turn left."""
        before = cell.record
        self._bytes += len(record.state) - (len(before.state) if before is not None else 0)
        cell.record = record

    def forget(self, cell: Cell) -> None:
        """Load a cell again before its next turn."""
        self._bytes -= _size_of(cell)
        cell.forget()

    def drop(self, ref: ActorRef, revision: int) -> bool:
        """Evict an actor that is idle at a revision; False where it is busy, or at another one."""
        cell = self._cells.get(ref)
        if cell is None:
            return True
        if not cell.idle or (cell.record is not None and cell.record.revision != revision):
            return False
        self.forget(cell)
        del self._cells[ref]
        self._evicted([ref])
        return True

    def clear(self) -> None:
        """Drop every cell."""
        self._cells.clear()
        self._bytes = 0

    @property
    def are_too_many(self) -> bool:
        """Whether more are active than may be, or their states are larger."""
        return len(self._cells) > self._max_active or self._bytes > self._max_bytes

    def trim(self) -> None:
        """Evict those idle for long and, over a limit, the least recently used until there is room."""
        idle_since = time.monotonic() - IDLE_SECONDS
        share = ROOM if self.are_too_many else 1.0
        most, most_bytes = self._max_active * share, self._max_bytes * share
        count, size = len(self._cells), self._bytes
        evicted: list[ActorRef] = []
        for ref, cell in self._cells.items():
            if count <= most and size <= most_bytes and cell.used_at > idle_since:
                break
            if cell.idle:
                evicted.append(ref)
                count -= 1
                size -= _size_of(cell)
        for ref in evicted:
            del self._cells[ref]
        self._bytes = size
        if evicted:
            self._evicted(evicted)


def _size_of(cell: Cell) -> int:
    return len(cell.record.state) if cell.record is not None else 0

"""Active actors, each with its mailbox, and how both executors run their turns.

An actor is activated by its first message, and evicted when it has been idle for a while or when too many are
active; never while a commit of it is not durable, since the store would still hold an older state.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace
from pydantic import TypeAdapter

from meshwright.core.clock import Clock
from meshwright.core.encoding import as_json
from meshwright.core.errors import NotFound, StoreFailed
from meshwright.core.tracing import NoTracing, Tracing
from meshwright.engine.kernel.actor import Actor, Reserve
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message
from meshwright.engine.kernel.guarantees import Bus
from meshwright.engine.kernel.store import Delivery
from meshwright.engine.kernel.timers import Timers
from meshwright.engine.kernel.turns import ActorKind, Commit, take_turn

IDLE_SECONDS = 60.0
ROOM = 0.9  # of a limit, once it was passed: to look for idle actors again and again would take longer
_NO_RECORD = ActorRecord()
_RESTING_ROOM = 0.5  # the same of actors at rest
_WORKING_PER_RESTING = 4  # actors with pending work that a walk may pass for each at rest


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

    @property
    def has_work(self) -> bool:
        """Whether work of its own is pending."""
        return self.record is not None and self.record.has_pending_work

    def forget(self) -> None:
        """Load it again before its next turn."""
        self.record = self.actor = None


class Cells:
    """The active actors of a runtime, least recently used first."""

    def __init__(
        self, max_active: int, max_bytes: int, max_resting: int, evicted: Callable[[Sequence[ActorRef]], None]
    ) -> None:
        self.kinds: dict[str, ActorKind] = {}
        self.remote_kinds: dict[str, ActorKind] = {}
        self._max_active = max_active
        self._max_bytes = max_bytes
        self._max_resting = self._resting_limit = max_resting
        self._bytes = 0
        self._working = 0
        self._evicted = evicted
        self._cells: OrderedDict[ActorRef, Cell] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter(list(self._cells.values()))

    def kind(self, ref: ActorRef) -> ActorKind:
        """The kind of an actor, here or in other processes. Raises NotFound if it is not known."""
        kind = self.kinds.get(ref.type) or self.remote_kinds.get(ref.type)
        if kind is None:
            raise missing_type(ref)
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
        """Give a cell its record, as loaded or as a turn left it."""
        before = cell.record or _NO_RECORD
        self._bytes += len(record.state) - len(before.state)
        self._working += record.has_pending_work - before.has_pending_work
        cell.record = record

    def forget(self, cell: Cell) -> None:
        """Load a cell again before its next turn."""
        self._bytes -= _state_size(cell)
        self._working -= cell.has_work
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
        self._bytes = self._working = 0

    @property
    def are_too_many(self) -> bool:
        """Whether more are active or at rest than may be, or their states are larger."""
        return len(self._cells) - self._working > self._resting_limit or self._is_full

    @property
    def _is_full(self) -> bool:
        return len(self._cells) > self._max_active or self._bytes > self._max_bytes

    def trim(self) -> None:
        """Evict those idle for long and, over a limit, the least recently used until there is room."""
        idle_since = time.monotonic() - IDLE_SECONDS
        share = ROOM if self._is_full else 1.0
        maximum = self._max_active * share
        max_bytes = self._max_bytes * share
        count, size, surplus = len(self._cells), self._bytes, self._surplus()
        evicted: list[ActorRef] = []
        for ref, cell in self._cells.items():
            is_over = count > maximum or size > max_bytes or cell.used_at <= idle_since
            # Least recently used first: those behind it were not idle for longer.
            if not is_over and surplus <= 0:
                break
            has_work = cell.has_work
            if (is_over or not has_work) and cell.idle:
                evicted.append(ref)
                count -= 1
                size -= _state_size(cell)
                surplus -= not has_work
                self._working -= has_work
        for ref in evicted:
            del self._cells[ref]
        self._bytes = size
        # A walk passes all that have work or wait for a commit, so the next one has to free a share of them.
        busy, resting = self._working // _WORKING_PER_RESTING, len(self._cells) - self._working
        self._resting_limit = max(self._max_resting, busy, int(resting / _RESTING_ROOM))
        if evicted:
            self._evicted(evicted)

    def _surplus(self) -> float:
        """How many actors at rest are to be evicted."""
        resting = len(self._cells) - self._working
        return resting * _RESTING_ROOM if resting > self._resting_limit else 0


def missing_type(ref: ActorRef) -> NotFound:
    """The error for a caller of an actor whose type is not known."""
    return NotFound(f"no actor type {ref.type!r} is registered", field="type")


def _state_size(cell: Cell) -> int:
    return len(cell.record.state) if cell.record is not None else 0


@dataclass(slots=True, eq=False)
class Surroundings:
    """The surroundings of turns: the parts of a runtime that an executor uses.

    `strict`: replies go through JSON, as they do between processes.
    """

    cells: Cells
    bus: Bus
    timers: Timers
    clock: Clock
    tracing: Tracing | NoTracing | None
    max_record_bytes: int
    strict: bool
    signal: Callable[[ActorRef, Sequence[Any]], None]
    reserve: Reserve
    fail: Callable[[StoreFailed], None]
    recover: Callable[[ActorRef], None]
    incarnation: Callable[[], str]

    def run(self, cell: Cell, record: ActorRecord, delivery: Delivery) -> Commit:
        """Run one turn on a record. Whatever it raises is passed on, and its half-changed state forgotten."""
        message = delivery.message
        if not (delivery.is_call or message.sender) and self._is_outdated(message.method, record):
            return Commit(cell.ref, message, record, changed=False)
        if self.tracing is None or message.traceparent is None:
            return self._run(cell, record, delivery, message.traceparent)
        name = f"turn {cell.ref.type}.{message.method}"
        with self.tracing.span(name, parent=message.traceparent) as span:
            return self._run(cell, record, delivery, span.traceparent)

    def _run(self, cell: Cell, record: ActorRecord, delivery: Delivery, traceparent: str | None) -> Commit:
        try:
            if cell.actor is None:
                cell.actor = cell.kind.activate(cell.ref, record)
            commit = take_turn(
                cell.kind,
                cell.actor,
                record,
                delivery.message,
                self.clock.now(),
                remember=delivery.remember,
                traceparent=traceparent,
                max_bytes=self.max_record_bytes,
                reserve=self.reserve,
            )
            if self.strict and delivery.is_call:
                commit.reply = _through_json(commit.reply)
        except BaseException:  # passed on: the next turn begins with what the last one left
            cell.actor = None
            raise
        return commit

    def _is_outdated(self, method: str, record: ActorRecord) -> bool:
        """Whether an alarm was moved or cleared after it rang, or pending work was done meanwhile.

        Turns that another actor asks for run all the same: it may wait for an outcome that it has missed.
        """
        if method == "wake":
            return record.wake_at is None or record.wake_at > self.clock.now()
        return method in ("recover", "redrive") and not record.has_pending_work


def without_alarm(record: ActorRecord, message: Message, ref: ActorRef) -> Commit:
    """The commit of an alarm whose turn raised: it must not ring for ever."""
    return Commit(ref, message, replace(record, revision=record.revision + 1, wake_at=None))


def settle(future: asyncio.Future[Any] | None, result: Any, error: BaseException | None) -> None:
    """Resolve the caller's future, unless it has stopped waiting."""
    if future is None or future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _through_json(reply: Any) -> Any:
    """A reply as it would come from another process. Raises InvalidInput where it cannot be JSON."""
    if reply is None:
        return None
    return TypeAdapter(type(reply)).validate_json(as_json("a reply", reply))

"""A group: the commits of many turns that share one transaction.

Within a group an actor's last head wins, and a message sent and taken in it never reaches the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from pydantic_core import to_json

from meshwright.encoding import encode
from meshwright.envelope import ActorRecord, ActorRef, Message, Record
from meshwright.errors import StoreFailed
from meshwright.hosts.embedded.cells import Cell
from meshwright.messages import Event
from meshwright.sql.database import Session
from meshwright.turns import Commit

Settled = Callable[[BaseException | None], None]
InsertEvents = Callable[[Session, Sequence[Event]], list[Event]]

REPLACE_HEAD = (
    "ON CONFLICT (type, id) DO UPDATE SET revision=excluded.revision, last_turn=excluded.last_turn, "
    "sent=excluded.sent, wake_at=excluded.wake_at, obliged=excluded.obliged, seen=excluded.seen, "
    "state=excluded.state"
)


class Group:
    """Commits that become durable together. Filled on the event loop, applied in the writer's thread."""

    def __init__(
        self, insert_events: InsertEvents, settled: Callable[[Group, StoreFailed | None], None]
    ) -> None:
        self.heads: dict[ActorRef, ActorRecord] = {}
        self.sent: dict[int, tuple[Message, bool]] = {}
        self.taken: list[int] = []
        self.records: list[Record] = []
        self.events: list[Event] = []
        self.callbacks: list[Settled] = []
        self.cells: list[Cell] = []
        self._is_settled = False
        self._error: StoreFailed | None = None
        self._insert_events = insert_events
        self._settled = settled

    def __bool__(self) -> bool:
        return bool(self.heads or self.callbacks or self.events or self.taken or self.sent or self.records)

    def add(self, commit: Commit, cell: Cell) -> None:
        """Take in a turn's head and records; its events and messages are added as they are spread."""
        self.cells.append(cell)
        self.heads[commit.ref] = commit.head
        self.records += commit.records

    def send(self, n: int, message: Message, *, outside: bool) -> None:
        """Keep a message under its number until it is taken; one from outside may come again."""
        self.sent[n] = (message, outside)

    def take(self, n: int) -> None:
        """A message was taken: forget that it was sent, or delete it."""
        if self.sent.pop(n, None) is None:
            self.taken.append(n)

    def apply(self, session: Session) -> None:
        """Write it all; runs in the writer's thread."""
        session.insert(
            "heads (type, id, revision, last_turn, sent, wake_at, obliged, seen, state)",
            [head_row(ref, head) for ref, head in self.heads.items()],
            then=REPLACE_HEAD,
        )
        session.insert(
            "mailbox (n, outside, message)",
            [(n, outside, message.encode()) for n, (message, outside) in self.sent.items()],
        )
        session.delete_in("mailbox", "n", self.taken)
        session.insert(
            "records (type, id, stream, n, value)",
            [
                (record.ref.type, record.ref.id, record.stream, record.n, bytes(encode(record.value)))
                for record in self.records
            ],
            then="ON CONFLICT DO NOTHING",
        )
        if self.events:
            self.events = self._insert_events(session, self.events)

    def done(self, error: StoreFailed | None) -> None:
        """Tell the host, on its loop."""
        self._is_settled, self._error = True, error
        self._settled(self, error)

    async def durable(self) -> None:
        """Return once the group is durable. Raises StoreFailed."""
        if not self._is_settled:
            settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.callbacks.append(lambda error: None if settled.done() else settled.set_result(None))
            await settled
        if self._error is not None:
            raise self._error


def head_row(ref: ActorRef, head: ActorRecord) -> tuple[object, ...]:
    """A head as the columns of its row."""
    return (
        ref.type,
        ref.id,
        head.revision,
        head.last_turn,
        head.sent,
        head.wake_at.timestamp() if head.wake_at else None,
        head.has_pending_work,
        to_json(head.processed_ids) if head.processed_ids else None,
        head.state,
    )


class Durable:
    """Await it to know that a group is durable; it costs nothing where nobody does."""

    def __init__(self, group: Group, schedule: Callable[[], None]) -> None:
        self._group = group
        self._schedule = schedule

    def __await__(self) -> Generator[Any, None, None]:
        self._schedule()  # else a group that holds nothing but this wish would wait for another's
        return self._group.durable().__await__()


class GroupCommitter:
    """Hands groups to the writer: one is filled while one is written.

    With two on their way the groups are smaller, each with its statements: a tenth fewer tasks a second.
    """

    def __init__(
        self,
        submit: Callable[[Group], None],
        insert_events: InsertEvents,
        on_durable: Callable[[Group], None],
        on_failed: Callable[[Group, StoreFailed], None],
    ) -> None:
        self._submit = submit
        self._new_group = partial(Group, insert_events, self._settled)
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._writing = False
        self.filling = self._new_group()

    @property
    def idle(self) -> bool:
        """Whether everything handed in is durable."""
        return not self._writing and not self.filling

    def flush(self) -> None:
        """Hand over what has been filled; while the writer is busy it waits, and more comes with it."""
        if self.filling and not self._writing:
            group, self.filling = self.filling, self._new_group()
            self._writing = True
            self._submit(group)

    def _settled(self, group: Group, error: StoreFailed | None) -> None:
        self._writing = False
        if error is None:
            self.flush()  # first: telling those who wait takes longer, and the writer has nothing to do
            self._on_durable(group)
        else:
            self._on_failed(group, error)

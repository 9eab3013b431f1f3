"""Commits on PostgreSQL: the batches that wait share one transaction, and each stands or falls by itself.

Actors are locked first, in one order for all workers, and numbers of events are taken last, so that no two
transactions wait for each other.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

from meshwright.core.errors import Conflict, StoreFailed, StoreUnavailable
from meshwright.core.messages import Event
from meshwright.events import table
from meshwright.events.log import EventLog
from meshwright.events.table import Written
from meshwright.kernel.envelope import ActorRef, Record
from meshwright.kernel.rows import REPLACE_HEAD, record_row, row_of
from meshwright.kernel.store import AlreadyTaken, Batch, Delivery
from meshwright.sql.database import Database, Row, Session

_SET_HEADS = f"""
    INSERT INTO heads (type, id, revision, last_turn, sent, wake_at, obliged, seen, state, owner)
    SELECT * FROM unnest(?::text[], ?::text[], ?::bigint[], ?::text[], ?::bigint[], ?::float8[],
        ?::smallint[], ?::bytea[], ?::bytea[], ?::text[]) {REPLACE_HEAD}, owner=excluded.owner
"""  # noqa: S608 code
_LOCK_HEADS = """
    SELECT type, id, revision FROM heads
    WHERE (type, id) IN (SELECT * FROM unnest(?::text[], ?::text[])) ORDER BY type, id FOR UPDATE
"""
_NEW_HEADS = """
    INSERT INTO heads SELECT type, id, 0, '', 0, NULL, 0, NULL, '', '' FROM
    unnest(?::text[], ?::text[]) AS new (type, id) ORDER BY type, id ON CONFLICT DO NOTHING RETURNING type, id
"""
_LOCK_MESSAGES = "SELECT n FROM messages WHERE n = ANY(?) ORDER BY n FOR UPDATE"
NUMBERS = "SELECT nextval('message_numbers') FROM generate_series(1, ?)"
MESSAGES = "messages (n, type, id, owner, fetched, remember, message)"
_OWNERS = """
    SELECT DISTINCT type, id, owner FROM messages
    WHERE (type, id) IN (SELECT * FROM unnest(?::text[], ?::text[]))
"""
_LOCK_LOG = "UPDATE event_log SET seq = seq"
_NEW_RECORDS = """
    INSERT INTO records (type, id, stream, n, value)
    SELECT * FROM unnest(?::text[], ?::text[], ?::text[], ?::bigint[], ?::bytea[])
    ON CONFLICT DO NOTHING RETURNING type, id, stream, n
"""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A batch, and its waiting callers. `error`: nothing of it was written; `skipped`: nothing had to be."""

    batch: Batch
    future: asyncio.Future[None]
    error: Exception | None = None
    skipped: bool = False
    owners: list[str] = field(default_factory=list)
    """Where its messages land, each."""

    @property
    def stands(self) -> bool:
        return self.error is None and not self.skipped


class Commits:
    """Hands batches to the writer: one group is filled while another is written."""

    def __init__(
        self,
        database: Database,
        log: EventLog,
        owner_of: Callable[[ActorRef], str],
        deliver: Callable[[Delivery], None],
        tell: Callable[[Sequence[Event]], None],
    ) -> None:
        self._database, self._log = database, log
        self._owner_of, self._deliver, self._tell = owner_of, deliver, tell
        self._filling: list[_Waiting] = []
        self._writing = False
        self.incarnation = ""

    async def commit(self, batch: Batch) -> None:
        """Write a batch; durable when this returns. Raises Conflict, AlreadyTaken and StoreUnavailable."""
        waiting = _Waiting(batch, asyncio.get_running_loop().create_future())
        self._filling.append(waiting)
        if not self._writing:
            self._flush()
        await waiting.future

    def _flush(self) -> None:
        self._writing = True
        group = list(self._filling)
        self._filling.clear()
        settled = partial(self._settled, group, self.incarnation)
        self._database.submit(self._apply, (group, self.incarnation), settled)

    def _settled(
        self,
        group: Sequence[_Waiting],
        incarnation: str,
        written: tuple[Sequence[Event], Written] | None,
        error: StoreFailed | None,
    ) -> None:
        """Go on with the next group, then tell those who wait for this one. On the event loop."""
        self._writing = False
        if self._filling:
            self._flush()
        if written is not None:
            self._tell(self._log.number(*written))
        for waiting in group:
            problem = StoreUnavailable(str(error)) if error else waiting.error
            if problem is None and waiting.stands:
                for item, owner in zip(waiting.batch.messages, waiting.owners, strict=True):
                    if owner == incarnation:
                        self._deliver(Delivery(item.message, item.number, item.remember))
            if not waiting.future.done():
                waiting.future.set_result(None) if problem is None else waiting.future.set_exception(problem)

    def _apply(
        self, session: Session, group: Sequence[_Waiting], incarnation: str
    ) -> tuple[Sequence[Event], Written] | None:
        """Write a group, and return its events; runs in the writer's thread, perhaps again."""
        for waiting in group:
            waiting.error, waiting.skipped = None, False
        _check_actors(session, group)
        _check_messages(session, group)
        _write_records(session, group)
        heads = [
            (*row_of(ref, record), incarnation)
            for waiting in _standing(group)
            for ref, record in waiting.batch.actors.items()
        ]
        if heads:
            session.execute(_SET_HEADS, _bound_columns(session, heads))
        session.delete_in("messages", "n", [n for waiting in _standing(group) for n in waiting.batch.taken])
        if any(waiting.batch.events for waiting in _standing(group)):
            session.execute(_LOCK_LOG)
            for waiting in _standing(group):
                unless = waiting.batch.unless
                waiting.skipped = isinstance(unless, str) and table.knows(session, unless)
        remote = self._write_messages(session, group, incarnation)
        for news in remote:
            session.notify(news)
        events = [event for waiting in _standing(group) for event in waiting.batch.events]
        return (events, self._log.insert(session, events)) if events else None

    def _write_messages(self, session: Session, group: Sequence[_Waiting], incarnation: str) -> set[str]:
        """Write the messages that were sent; returns the news for the other workers that get some."""
        self._place(session, group)
        items = [
            (item, owner)
            for waiting in _standing(group)
            for item, owner in zip(waiting.batch.messages, waiting.owners, strict=True)
        ]
        if items:
            numbers = sorted(n for (n,) in session.execute(NUMBERS, (len(items),)).fetchall())
            rows: list[Row] = []
            for (item, owner), number in zip(items, numbers, strict=True):
                item.number = number
                data = item.message.encode()
                rows.append((number, *item.message.to, owner, owner == incarnation, item.remember, data))
            session.insert(MESSAGES, rows)
        return {f"m{owner}" for _, owner in items if owner != incarnation}

    def _place(self, session: Session, group: Sequence[_Waiting]) -> None:
        """Decide where messages land: with those that wait for the same actor, so that they stay in order."""
        refs = {item.message.to for waiting in _standing(group) for item in waiting.batch.messages}
        waiting_at: dict[ActorRef, str] = {}
        if refs:
            rows = session.execute(_OWNERS, _columns(list(refs))).fetchall()
            waiting_at = {ActorRef(kind, name): owner for kind, name, owner in rows}
        owners = {ref: waiting_at.get(ref) or self._owner_of(ref) for ref in refs}
        for waiting in group:
            waiting.owners = [owners.get(item.message.to, "") for item in waiting.batch.messages]


def place(ref: ActorRef, workers: Sequence[str]) -> str:
    """The worker on which the messages of an actor land: the same for all, as long as it lives."""

    def rank(incarnation: str) -> bytes:
        return blake2b(f"{incarnation} {ref.type}/{ref.id}".encode(), digest_size=8).digest()

    return max(workers, key=rank)


def _standing(group: Sequence[_Waiting]) -> list[_Waiting]:
    return [waiting for waiting in group if waiting.stands]


def _check_actors(session: Session, group: Sequence[_Waiting]) -> None:
    """Lock the actors of a group, and turn down the batches whose actors have moved on."""
    expected = {ref: revision for waiting in group for ref, revision in waiting.batch.expected.items()}
    if not expected:
        return
    rows = session.execute(_LOCK_HEADS, _columns(expected)).fetchall()
    found = {ActorRef(kind, name): revision for kind, name, revision in rows}
    new = [ref for waiting in group for ref in waiting.batch.actors if ref not in found]
    if new:
        rows = session.execute(_NEW_HEADS, _columns(new)).fetchall()
        mine = {ActorRef(*row) for row in rows}
        found |= {ref: 0 if ref in mine else -1 for ref in new}  # else another worker has just made it
    for waiting in group:
        for ref, revision in waiting.batch.expected.items():
            if found.get(ref, 0) != revision:
                waiting.error = Conflict(f"{ref} is not at revision {revision} any more")


def _check_messages(session: Session, group: Sequence[_Waiting]) -> None:
    """Turn down the batches whose messages were taken."""
    taken = [n for waiting in _standing(group) for n in waiting.batch.taken]
    if not taken:
        return
    there = {n for (n,) in session.execute(_LOCK_MESSAGES, (taken,)).fetchall()}
    for waiting in _standing(group):
        if gone := [n for n in waiting.batch.taken if n not in there]:
            waiting.error = AlreadyTaken(gone)
        there.difference_update(waiting.batch.taken)


def _write_records(session: Session, group: Sequence[_Waiting]) -> None:
    """Write the records; a batch that is to be written unless its record is, and it is, is skipped."""
    standing = [waiting for waiting in _standing(group) if waiting.batch.records]
    rows = [
        [tuple(map(session.bindable, record_row(record))) for record in waiting.batch.records]
        for waiting in standing
    ]
    if not rows:
        return
    columns = _columns_of(itertools.chain.from_iterable(rows))
    written = set(session.execute(_NEW_RECORDS, columns).fetchall())
    for waiting, own in zip(standing, rows, strict=True):
        keys = {row[:-1] for row in own}
        waiting.skipped = isinstance(waiting.batch.unless, Record) and not keys & written
        written -= keys  # of several batches with one key the first stands


def _columns_of(rows: Iterable[Row]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _bound_columns(session: Session, rows: Iterable[Row]) -> list[list[Any]]:
    return _columns_of(tuple(map(session.bindable, row)) for row in rows)


def _columns(refs: Any) -> tuple[list[str], list[str]]:
    return [ref.type for ref in refs], [ref.id for ref in refs]

"""One process, one SQLite file: the default store. Many turns share a transaction, hence an fsync."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from meshwright.core.errors import StoreFailed
from meshwright.core.events import Event
from meshwright.engine.events import table
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.table import Written
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message, Record
from meshwright.engine.kernel.rows import (
    MAX_N,
    RECORDS,
    REPLACE_HEAD,
    SELECT_RECORDS,
    delete_heads,
    delete_streams,
    head_row,
    read_record,
    record_row,
)
from meshwright.engine.kernel.store import Batch, Delivery, ExclusiveStore, Receiver, Takeover
from meshwright.engine.sql.database import Database, Row, Session
from meshwright.engine.sql.meta import refuse_if_moved
from meshwright.engine.sql.sqlite import RESTORE, Durability, SqliteDatabase, SqliteSession

_HEADS = "heads (type, id, revision, last_turn, sent, wake_at, obliged, seen, state)"
_SELECT_HEADS = (
    "SELECT id, revision, last_turn, sent, wake_at, obliged, seen, state FROM heads WHERE type = ?"
)
_IS_WRITTEN = "SELECT 1 FROM records WHERE type = ? AND id = ? AND stream = ? AND n = ?"


class SqliteStore(ExclusiveStore):
    """Actors, messages, records and events in the file of a folder, which it locks while it is open."""

    name = "sqlite"

    def __init__(self, database: Database, log: EventLog) -> None:
        self._database = database
        self._log = log
        self._reader: Session | None = None
        self._receiver: Receiver | None = None
        self._incarnation = ""
        self._last_ids: dict[str, str] = {}

    @classmethod
    def in_folder(cls, folder: Path | None, *, durability: Durability = "full") -> SqliteStore:
        """A store on the file of a folder, with an event log of its own."""
        database = SqliteDatabase(folder, durability=durability)
        return cls(database, EventLog(database))

    async def open(self, receiver: Receiver) -> None:
        """Lock the folder and open the file."""
        self._receiver = receiver
        self._database.on_failure = receiver.fail
        self._database.preloaded += [write_batch, delete_streams, delete_heads]
        await self._database.open()
        try:
            await self._log.start()
            self._reader = self._database.connect_reader()
        except BaseException:  # a cancelled start too must give the folder back
            await self.close()
            raise

    async def begin(self, incarnation: str) -> Takeover:
        """Deliver the messages that were not taken, and recover the actors with pending work."""
        assert self._receiver is not None
        self._incarnation = incarnation
        await self._database.read(refuse_if_moved, self._database.location)
        try:
            return await self._database.read(_takeover, frozenset(self._receiver.kinds))
        except (ValueError, KeyError, TypeError) as error:
            what = f"{self._database.location} is damaged: a message in its mailbox cannot be read"
            raise StoreFailed(what, remedy=RESTORE) from error

    async def close(self, *, abrupt: bool = False) -> None:
        """Write what waits and close the file."""
        self._log.close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        await self._database.close()

    def load(self, refs: Sequence[ActorRef]) -> Mapping[ActorRef, ActorRecord]:
        """The records of actors: one look-up for each type."""
        by_type: defaultdict[str, list[str]] = defaultdict(list)
        for ref in refs:
            if ref.id <= self._last_id(ref.type):
                by_type[ref.type].append(ref.id)
        records: dict[ActorRef, ActorRecord] = {}
        for kind, ids in by_type.items():
            rows = self._read(f"{_SELECT_HEADS} AND id IN ({','.join('?' * len(ids))})", (kind, *ids))
            records |= {ActorRef(kind, row[0]): read_record(row[1:]) for row in rows}
        return records

    def write(self, batch: Batch, on_durable: Callable[[StoreFailed | None], None]) -> None:
        """Queue a batch for the writer."""
        for ref in batch.actors:
            last_id = self._last_ids.get(ref.type)
            if ref.id > (self._last_id(ref.type) if last_id is None else last_id):
                self._last_ids[ref.type] = ref.id
        rows = (
            [head_row(ref, record) for ref, record in batch.actors.items()],
            [(item.number, item.remember, item.message.encode()) for item in batch.messages],
            batch.taken_numbers,
            [record_row(record) for record in batch.records],
            self._log.rows(batch.events) if batch.events else None,
        )
        self._database.submit(write_batch, rows, partial(self._written, batch.events, on_durable))

    async def records(self, ref: ActorRef, stream: str, first: int, last: int | None) -> list[Record]:
        """The records of a stream from one number to another, in order."""
        rows = self._read(SELECT_RECORDS, (*ref, stream, first, MAX_N if last is None else last))
        return [Record(ref, stream, n, from_json(value)) for n, value in rows]

    async def delete_records(self, streams: Mapping[ActorRef, Sequence[str]]) -> None:
        """Delete whole streams of actors."""
        await self._database.write(delete_streams, [*streams.items()])

    async def delete_actors(self, revisions: Mapping[ActorRef, int]) -> set[ActorRef]:
        """Delete the records of actors, behind the batches that were queued before."""
        heads = [(*ref, revision) for ref, revision in revisions.items()]
        return {ActorRef(*head) for head in await self._database.write(delete_heads, heads)}

    def has_record(self, record: Record) -> bool:
        """Whether a record of that number is in the file."""
        return bool(self._read(_IS_WRITTEN, (*record.ref, record.stream, record.n)))

    async def knows_event(self, event_id: str) -> bool:
        """Whether an event of that id is in the log."""
        return await self._log.knows(event_id)

    def alarms(self, until: datetime) -> Iterable[tuple[ActorRef, datetime]]:
        """The alarms in the file that are due until then."""
        rows = self._read("SELECT type, id, wake_at FROM heads WHERE wake_at <= ?", (until.timestamp(),))
        return [(ActorRef(kind, name), datetime.fromtimestamp(at, UTC)) for kind, name, at in rows]

    async def has_expired(self, incarnation: str) -> bool:
        """Whether a run has ended: the file is locked by one process, so every other run has."""
        return incarnation != self._incarnation

    def broadcast(self, event: Event) -> None:
        """Show an event to the listeners of this process."""
        if self._receiver is not None:
            self._receiver.bus.notify(event)

    def _last_id(self, kind: str) -> str:
        """No actor of the type has a later id: the id of a task sorts after all earlier ones."""
        if kind not in self._last_ids:
            [(last,)] = self._read("SELECT max(id) FROM heads WHERE type = ?", (kind,))
            self._last_ids[kind] = last or ""
        return self._last_ids[kind]

    def _written(
        self,
        events: Sequence[Event],
        on_durable: Callable[[StoreFailed | None], None],
        log_result: Written | None,
        error: StoreFailed | None,
    ) -> None:
        """Tell the runtime first: it writes the next batch before waiting callers resume."""
        on_durable(error)
        if log_result is not None and self._receiver is not None:
            tell = self._receiver.bus.notify
            for event in self._log.tell(events, log_result):
                tell(event)

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """The rows of a short query, here: a point look-up costs less than a hop to a thread."""
        assert self._reader is not None, "the store is not open"
        try:
            return self._reader.execute(query, values).fetchall()
        except SqliteSession.errors as error:
            raise StoreFailed(f"cannot read {self._database.location}: {error}", remedy=RESTORE) from error


def _takeover(session: Session, kinds: Collection[str]) -> Takeover:
    last_number, messages = 0, list[Delivery]()
    for last_number, outside, data in session.stream("SELECT n, outside, message FROM mailbox ORDER BY n"):
        message = Message.decode(data)
        if message.to.type in kinds:  # others wait in the file, and not in memory
            messages.append(Delivery(message, last_number, bool(outside)))
    pending = [
        ActorRef(*row) for row in session.execute("SELECT type, id FROM heads WHERE obliged").fetchall()
    ]
    return Takeover(messages, pending, last_number)


def write_batch(
    session: Session,
    heads: Sequence[Row],
    messages: Sequence[Row],
    taken_numbers: Sequence[int],
    records: Sequence[Row],
    events: tuple[Sequence[Row], float] | None,
) -> Written | None:
    """Write the rows of a batch, in the writer."""
    session.insert(_HEADS, heads, then=REPLACE_HEAD)
    session.insert("mailbox (n, outside, message)", messages)
    session.delete_in("mailbox", "n", taken_numbers)
    session.insert(RECORDS, records, then="ON CONFLICT DO NOTHING")
    return table.insert(session, *events) if events else None

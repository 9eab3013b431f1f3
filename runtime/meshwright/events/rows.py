"""Events as rows of the log's table, and the rows that a session has written last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any

from msgspec import UNSET

from meshwright.core.encoding import decode, encode
from meshwright.core.messages import Event
from meshwright.core.topics import MESH
from meshwright.events.filter import KEYED, seconds
from meshwright.sql.database import Row, Session, marks

SAME = (
    "event_type",
    "event_version",
    "topic",
    "tenant_id",
    "task_id",
    "agent_id",
    "trace_id",
    "traceparent",
    "aggregate_id",
)
COLUMNS = ("seq", "time", *SAME, "own_id", "other_id", "idempotency_key", "extra", "payload")
COLUMN_LIST = ", ".join(COLUMNS)
PAYLOAD, _TENANT, _TYPE = (COLUMNS.index(name) for name in ("payload", "tenant_id", "event_type"))
ROW_BYTES = 256
"""The bytes that a tenant is charged for a row beside its payload."""
_MAX_ROWS, _MAX_BYTES = 4096, 8 * 1024 * 1024  # that wait in memory to be folded
_SELECT_UNFOLDED = (
    f"SELECT {COLUMN_LIST} FROM events WHERE seq > ? AND seq <= ? AND event_type IN ({{}}) "  # noqa: S608
    "ORDER BY seq LIMIT ?"
)
_UNREADABLE = "row.unreadable"
_MAX_ERROR_CHARS = 200
_same = attrgetter(*SAME)
_keys_of = itemgetter(*map(COLUMNS.index, ("time", *KEYED)))


def own_id(event: Event) -> str | None:
    """The end of an id of the form `{type}/{id}/{own id}`, the event being of actor `{type}/{id}`.

    None for any other id.
    """
    actor = event.aggregate_id
    if "/" not in actor or not event.id.startswith(f"{actor}/"):
        return None
    return event.id[len(actor) + 1 :]


def row_of(event: Event, own: str | None) -> Row:
    """An event as the columns of its row, without its number."""
    time = event.time
    return (
        time.timestamp() if time.tzinfo is UTC else seconds(time),
        *_same(event),
        own,
        event.id if own is None else None,
        event.idempotency_key,
        encode(event.unknown) if event.unknown else None,
        bytes(encode(event.payload)),
    )


def event_of(row: Row, payload: Callable[[bytes], Any] = decode) -> Event:
    """A row as an event again; its payload is plain data, or what `payload` makes of its JSON.

    A row that was altered so that it is no event any more is shown as one that says so.
    """
    try:
        return _event_of(row, payload)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        return Event(
            id=f"row/{row[0]}",
            event_type=_UNREADABLE,
            topic=MESH,
            time=datetime.fromtimestamp(0, UTC),
            payload={"error": f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]},
            seq=row[0],
        )


def _event_of(row: Row, payload: Callable[[bytes], Any]) -> Event:
    seq, time, event_type, event_version, topic, tenant_id, task_id, agent_id = row[:8]
    trace_id, traceparent, aggregate_id, own, other, idempotency_key, extra, data = row[8:16]
    return Event(
        id=f"{aggregate_id}/{own}" if other is None else other,
        event_type=event_type,
        event_version=event_version,
        topic=topic,
        time=datetime.fromtimestamp(time, UTC),
        tenant_id=tenant_id,
        task_id=task_id,
        agent_id=agent_id,
        trace_id=trace_id,
        traceparent=traceparent,
        aggregate_id=aggregate_id,
        idempotency_key=idempotency_key,
        payload=payload(data),
        seq=seq,
        unknown=UNSET if extra is None else decode(extra),
    )


class RecentRows:
    """The rows that a session has written last, without a gap, so that they need not be read again.

    `rows` wait to be folded. `keys` are the times and keys of the open block, `stored` its bytes by tenant;
    there are none where the session has not written all of it.
    """

    def __init__(self, first: int) -> None:
        self.next_seq = first
        self.rows: list[Row] = []
        self.keys: Sequence[set[Any]] = ()
        self.stored = Counter[str | None]()
        self._size = 0  # of the payloads since they were empty

    def open_block(self) -> None:
        """Begin with the keys and sizes of another block."""
        self.keys, self.stored = [set() for _ in range(len(KEYED) + 1)], Counter()

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows of the open block, as the table has them."""
        self.next_seq += len(rows)
        self.rows += rows
        self._size += sum([len(row[PAYLOAD]) for row in rows])
        if len(self.rows) > _MAX_ROWS or self._size > _MAX_BYTES:  # the table still has them
            self.rows, self._size = list[Row](), 0
        if self.keys:
            for column, values in zip(self.keys, zip(*map(_keys_of, rows), strict=True), strict=True):
                column.update(values)
            for row in rows:
                self.stored[row[_TENANT]] += len(row[PAYLOAD]) + ROW_BYTES

    def after(self, seq: int, last: int) -> list[Row] | None:
        """Forget the rows up to a `seq`; returns the next ones up to `last`, None where some are missing."""
        begin = self.next_seq - len(self.rows)
        if seq + 1 < begin or last >= self.next_seq:
            return None
        del self.rows[: seq + 1 - begin]
        self._size = self._size if self.rows else 0
        return self.rows[: last - seq]


def recent_rows(session: Session, first: int, *, opens_block: bool) -> RecentRows:
    """The rows that end before a `seq`. There are none where the session has not written the one before."""
    recent: RecentRows | None = session.recent
    if recent is None or recent.next_seq != first:  # another session has written between
        recent = RecentRows(first)
    if opens_block:
        recent.open_block()
    session.recent = recent
    return recent


def forget_rows(session: Session) -> None:
    """Read all rows from the table again, since it has changed."""
    session.recent = None


def unfolded(session: Session, seq: int, last: int, types: Collection[str], limit: int) -> list[Row]:
    """The first rows of some types behind a `seq` up to another: from memory where they are there."""
    recent: RecentRows | None = session.recent
    rows = None if recent is None else recent.after(seq, last)
    if rows is None:
        query = _SELECT_UNFOLDED.format(marks(len(types)))
        return session.execute(query, (seq, last, *sorted(types), limit)).fetchall()
    return list(islice((row for row in rows if row[_TYPE] in types), limit))

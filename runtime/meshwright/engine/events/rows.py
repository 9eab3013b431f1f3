"""Events as rows of the log's table, with their hash chain: what makes a change of a row show.

    commitment = SHA-256(salt, payload)
    hash       = SHA-256(hash of the row before, commitment, number and facts of the row)

A row has its salt and the first bytes of its hash, by which the first wrong row is found. The log stores the
full hash of its last row. Each block stores the full hash of its own last row, and so do signed heads
(`events.heads`).
If a payload is erased, the row has the commitment in the place of the salt: the chain holds, and the
payload cannot be guessed from the commitment, since the random salt is gone.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from hashlib import sha256 as _sha256
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any

import msgspec
from msgspec import UNSET

from meshwright.core.encoding import Json, decode, encode
from meshwright.core.events import Event
from meshwright.core.topics import MESH
from meshwright.engine.events.filter import KEYED, seconds
from meshwright.engine.sql.database import Row, Session, marks

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
    own = event.id.removeprefix(f"{actor}/")
    return own if len(own) < len(event.id) and "/" in actor else None


def event_row(event: Event, own: str | None) -> Row:
    """An event as the columns of its row, without its number."""
    time, payload = event.time, event.payload
    return (
        time.timestamp() if time.tzinfo is UTC else seconds(time),
        *_same(event),
        own,
        event.id if own is None else None,
        event.idempotency_key,
        encode(event.unknown) if event.unknown else None,
        bytes(payload if type(payload) is Json else encode(payload)),
    )


def read_row(row: Row, payload: Callable[[bytes], Any] = decode) -> Event:
    """A row as an event again; its payload is plain data, or what `payload` makes of its JSON.

    A row that was altered so that it is no event any more is shown as one that says so.
    """
    try:
        return _read_row(row, payload)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        return Event(
            id=f"row/{row[0]}",
            event_type=_UNREADABLE,
            topic=MESH,
            time=datetime.fromtimestamp(0, UTC),
            payload={"error": f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]},
            seq=row[0],
        )


def _read_row(row: Row, payload: Callable[[bytes], Any]) -> Event:
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


ERASED = b'{"erased":true}'
"""The payload of a row whose contents were erased."""
ERASED_EVENT = "contents.erased"
"""The event of an erasure; its payload has the rows, as `ranges` of their numbers."""
PRUNED_EVENT = "events.pruned"
"""The event of rows that were deleted by age, `through` a number."""
SALT_BYTES, HASH_BYTES = 16, 32  # salted: no hash lets one guess an erased payload
_TAG_BYTES = 8  # of a row's hash; blocks and heads have whole ones
_LINK_BYTES, _ERASED_LINK_BYTES = SALT_BYTES + _TAG_BYTES, HASH_BYTES + _TAG_BYTES
_VERSION, _MAX = 2, 2**63  # of `event_version`: a larger one is stored as the largest
_UNPACKABLE = (UnicodeEncodeError, OverflowError, TypeError)

_number = struct.Struct("<q").pack
_pack = msgspec.msgpack.Encoder().encode


def link(session: Session, rows: Sequence[Row], first: int, head: bytes) -> tuple[list[Row], list[bytes]]:
    """Rows as the database will have them, and the hash of each; `head` is the hash of the row before.

    It is in the way of every commit: a row costs two hashes and two microseconds.
    """
    salts = os.urandom(SALT_BYTES * len(rows))  # one system call for all
    linked: list[Row] = []
    hashes: list[bytes] = []
    for n, row in enumerate(rows):
        salt = salts[n * SALT_BYTES : (n + 1) * SALT_BYTES]
        seq, facts = first + n, row[:-1]
        try:
            packed = _pack(facts) if -_MAX < facts[_VERSION] < _MAX else None
        except _UNPACKABLE:
            packed = None
        if packed is None:
            row = (*map(session.bindable, facts), row[-1])  # hashed as the database will have it
            packed = _pack(row[:-1])
        head = _sha256(head + _sha256(salt + row[-1]).digest() + _number(seq) + packed).digest()
        linked.append((seq, *row, salt + head[:_TAG_BYTES]))
        hashes.append(head)
    return linked, hashes


def sealed_rows(session: Session, rows: Sequence[Row]) -> list[Row]:
    """Rows as the database will have them, each with its salt, its commitment and its packed facts.

    By these a server numbers and links them itself.
    """
    sealed: list[Row] = []
    for *facts, payload in rows:
        salt, stored = os.urandom(SALT_BYTES), [*map(session.bindable, facts)]
        sealed.append((*stored, payload, salt, _sha256(salt + payload).digest(), _pack(stored)))
    return sealed


def next_hash(row: Row, head: bytes, seq: int | None = None) -> bytes | None:
    """The hash that a stored row should have behind another's, where its own number is `seq`.

    `row` has the columns of the table with its link. None for a row that cannot be hashed.
    """
    stored, *facts, payload, own = row
    try:
        number = stored if seq is None else seq
        return _sha256(head + _commitment(payload, own) + _number(number) + _pack(facts)).digest()
    except (ValueError, OverflowError, TypeError, struct.error):
        return None


def fits(row: Row, expected: bytes | None) -> bool:
    """Whether a row's link is that of the hash that was found for it."""
    return expected is not None and bytes(row[-1])[-_TAG_BYTES:] == expected[:_TAG_BYTES]


def is_erased(row: Row) -> bool:
    """Whether a row's payload was erased."""
    return isinstance(row[-1], bytes) and len(row[-1]) == _ERASED_LINK_BYTES


def erased_link(payload: bytes, own: bytes) -> bytes:
    """The link of a row whose payload is taken away."""
    return _commitment(payload, own) + own[-_TAG_BYTES:]


def _commitment(payload: bytes, own: bytes) -> bytes:
    if len(own) == _ERASED_LINK_BYTES:
        return own[:HASH_BYTES]  # the salt and the payload are gone
    if len(own) != _LINK_BYTES:
        raise ValueError("no link")
    return _sha256(own[:SALT_BYTES] + payload).digest()

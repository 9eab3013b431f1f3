"""Writes groups of batches in one transaction; each batch stands or falls by itself. Runs in the writer.

Actors are locked first, in one order for all workers, and events are numbered last, so that no two
transactions wait for each other. Statements that need no answer of one another share a round trip.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from meshwright.events import table
from meshwright.events.table import Written
from meshwright.kernel.rows import REPLACE_HEAD, delete_heads
from meshwright.sql.database import Cursor, Row, Session, pipelined
from meshwright.sql.postgres import array

HEADS = "heads (type, id, revision, last_turn, sent, wake_at, obliged, seen, state, owner)"
MESSAGES = "messages (n, type, id, owner, fetched, remember, message)"
NUMBERS = "SELECT nextval('message_numbers') FROM generate_series(1, ?)"
_SET_HEADS = f"{REPLACE_HEAD}, owner=excluded.owner"
_MOVE_HEADS = """
    UPDATE heads SET owner = ? WHERE (type, id) IN (SELECT * FROM unnest(?::text[], ?::text[])) AND owner <> ?
"""
_NEW_HEADS = """
    INSERT INTO heads SELECT type, id, 0, '', 0, NULL, 0, NULL, '', '' FROM
    unnest(?::text[], ?::text[]) AS new (type, id) ORDER BY type, id ON CONFLICT DO NOTHING
"""
_LOCK_HEADS = """
    SELECT type, id, revision FROM heads
    WHERE (type, id) IN (SELECT * FROM unnest(?::text[], ?::text[])) ORDER BY type, id FOR UPDATE
"""
_LOCK_MESSAGES = "SELECT n FROM messages WHERE n = ANY(?) ORDER BY n FOR UPDATE"
_DELETE_MESSAGES = "DELETE FROM messages WHERE n = ANY(?)"
_OWNERS = """
    SELECT type, id, coalesce(
        (SELECT owner FROM messages WHERE (messages.type, messages.id) = (to_.type, to_.id) AND owner = ''
            LIMIT 1),
        (SELECT owner FROM messages WHERE (messages.type, messages.id) = (to_.type, to_.id) LIMIT 1),
        (SELECT owner FROM heads JOIN workers ON incarnation = owner AND jsonb_exists(kinds::jsonb, to_.type)
            WHERE (heads.type, heads.id) = (to_.type, to_.id)))
    FROM unnest(?::text[], ?::text[]) AS to_ (type, id)
"""
_WAITED_FOR = """
    SELECT type, id FROM unnest(?::text[], ?::text[]) AS to_ (type, id)
    WHERE EXISTS (SELECT 1 FROM messages WHERE (messages.type, messages.id) = (to_.type, to_.id))
"""
_LOCK_LOG = "SELECT 1 FROM event_log FOR UPDATE"
_NEW_RECORDS = """
    INSERT INTO records (type, id, stream, n, value)
    SELECT * FROM unnest(?::text[], ?::text[], ?::text[], ?::bigint[], ?::bytea[])
    ON CONFLICT DO NOTHING RETURNING type, id, stream, n
"""

_HAS_LEASE = "SELECT 1 FROM workers WHERE incarnation = ? AND expires_at > clock_timestamp()"

Unless = Literal["", "record", "event"]
BatchResult = tuple[str, Sequence[Any], Sequence[int], Sequence[str]]
"""`written`, `skipped`, `expired` (a record of a worker whose lease is over), `moved` (an actor had another
revision: its type and id) or `taken` (the numbers of messages that were gone); then the numbers and owners of
the messages that were sent."""


class BatchRows(NamedTuple):
    """A batch as plain rows."""

    expected: Sequence[tuple[str, str, int]]
    """Type, id and revision of each actor that the batch rests on; revision 0 for one without a record."""
    ahead: Sequence[tuple[str, str]]
    """Type and id of actors for which no message may wait."""
    heads: Sequence[Row]
    taken: Sequence[int]
    records: Sequence[Row]
    messages: Sequence[tuple[str, str, str, bool, bytes, bool]]
    """Type and id of the receiver, an owner, `remember`, the message, and whether it is for this owner alone.

    Else it is for the owner of the messages that wait for that receiver, or of its record, if there is one.
    Without an owner (""), the message waits for a worker that runs the type.
    """
    events: Sequence[Row]
    unless: Unless
    """Skip the batch where its record, or the event of `unless_id`, is known."""
    unless_id: str


class _Judged:
    """A batch, and whether it stands."""

    __slots__ = ("batch", "detail", "numbers", "owners", "state")

    def __init__(self, rows: Sequence[Any]) -> None:
        self.batch = BatchRows(*rows)
        self.state = "written"
        self.detail: Sequence[Any] = ()
        self.numbers: Sequence[int] = ()
        self.owners: Sequence[str] = ()

    def end(self, state: str, detail: Sequence[Any] = ()) -> None:
        self.state, self.detail = state, detail


@pipelined
def write_batches(
    session: Session, incarnation: str, batches: Sequence[Sequence[Any]], now: float
) -> tuple[Sequence[BatchResult], Written | None]:
    """Write batches, each the fields of a `BatchRows`; returns their results, and the numbers of events."""
    group = [_Judged(batch) for batch in batches]
    with session.pipeline():
        log = _judge(session, incarnation, group)
        _write_records(session, group)
        heads = [row for judged in _standing(group) for row in judged.batch.heads]
        session.insert(HEADS, heads, then=_SET_HEADS)
        _move(session, group, incarnation)
        if taken := [n for judged in _standing(group) for n in judged.batch.taken]:
            session.execute(_DELETE_MESSAGES, (taken,))
        _skip_known_events(session, group)
        _write_messages(session, group, incarnation)
        events = [row for judged in _standing(group) for row in judged.batch.events]
        written = table.insert(session, events, now, log) if events else None
    return [(judged.state, judged.detail, judged.numbers, judged.owners) for judged in group], written


def delete_locked(session: Session, heads: Sequence[tuple[str, str, int]]) -> list[tuple[str, str]]:
    """Delete the records of actors that are still at their revisions; returns the actors of those deleted."""
    session.execute(_LOCK_HEADS, _columns(heads)).fetchall()
    return delete_heads(session, heads)


def _standing(group: Iterable[_Judged]) -> list[_Judged]:
    return [judged for judged in group if judged.state == "written"]


def _judge(session: Session, incarnation: str, group: Sequence[_Judged]) -> Cursor | None:
    """Lock what the group rests on, and turn down the batches that have been overtaken by other workers.

    The log is locked in the same round trip, unless the group writes records: these may wait for others.
    """
    expected = {(kind, name): revision for judged in group for kind, name, revision in judged.batch.expected}
    new = [ref for judged in group for ref in (row[:2] for row in judged.batch.heads) if not expected[ref]]
    taken = [n for judged in group for n in judged.batch.taken]
    receivers = {message[:2] for judged in group for message in judged.batch.messages}
    ahead = {ref for judged in group for ref in judged.batch.ahead}
    count = sum(len(judged.batch.messages) for judged in group)
    if new:
        session.execute(_NEW_HEADS, _columns(new))
    locked = session.execute(_LOCK_HEADS, _columns(expected)) if expected else None
    there = session.execute(_LOCK_MESSAGES, (taken,)) if taken else None
    waited_for = session.execute(_WAITED_FOR, _columns(ahead)) if ahead else None
    owned = session.execute(_OWNERS, _columns(receivers)) if receivers else None
    numbered = session.execute(NUMBERS, (count,)) if count else None
    journaled = [judged for judged in group if judged.batch.unless == "record"]
    leased = session.execute(_HAS_LEASE, (incarnation,)) if journaled else None
    has_events = any(judged.batch.events for judged in group)
    has_records = any(judged.batch.records for judged in group)
    log = table.lock(session) if has_events and not has_records else None

    if leased and not leased.fetchall():
        for judged in journaled:
            judged.end("expired")
    found = {(kind, name): revision for kind, name, revision in (locked.fetchall() if locked else ())}
    _check_actors(group, found)
    if waited_for:
        _check_ahead(group, set(waited_for.fetchall()))
    if there:
        _check_messages(group, {n for (n,) in there.fetchall()})
    owners = {(kind, name): owner for kind, name, owner in (owned.fetchall() if owned else ())}
    numbers = iter(sorted(n for (n,) in numbered.fetchall()) if numbered else ())
    for judged in group:
        messages = judged.batch.messages
        judged.numbers = [next(numbers) for _ in messages]
        # Messages for one actor land together, so that they stay in order; else where it committed last.
        judged.owners = [
            message[2] if message[5] or (owner := owners[message[:2]]) is None else owner
            for message in messages
        ]
    return log


def _move(session: Session, group: Sequence[_Judged], incarnation: str) -> None:
    """Make this worker answer for actors that took messages here, though they changed nothing.

    One that was handed a task to offer has it in memory alone until it is claimed.
    """
    judged = [(judged.batch, {row[:2] for row in judged.batch.heads}) for judged in _standing(group)]
    moved = {
        ref[:2]
        for batch, changed in judged
        if batch.taken
        for ref in batch.expected
        if ref[:2] not in changed
    }
    if moved:
        session.execute(_MOVE_HEADS, (incarnation, *_columns(moved), incarnation))


def _check_actors(group: Sequence[_Judged], found: dict[Any, int]) -> None:
    """Turn down batches whose actors have moved on; revision 0 also has what a refused batch left behind."""
    for judged in group:
        for kind, name, revision in judged.batch.expected:
            if found.get((kind, name), 0) != revision:
                judged.end("moved", (kind, name))


def _check_ahead(group: Sequence[_Judged], waited_for: set[Any]) -> None:
    for judged in group:
        for ref in judged.batch.ahead:
            if ref in waited_for:
                judged.end("moved", ref)


def _check_messages(group: Sequence[_Judged], there: set[int]) -> None:
    for judged in _standing(group):
        if gone := [n for n in judged.batch.taken if n not in there]:
            judged.end("taken", gone)
        else:
            there.difference_update(judged.batch.taken)


def _write_records(session: Session, group: Sequence[_Judged]) -> None:
    """Write the records; of several batches with one record the first stands."""
    standing = [judged for judged in _standing(group) if judged.batch.records]
    if not standing:
        return
    rows = [[tuple(map(session.bindable, row)) for row in judged.batch.records] for judged in standing]
    columns = zip(*itertools.chain.from_iterable(rows), strict=True)
    kinds = ("text", "text", "text", "bigint", "bytea")
    cursor = session.execute(_NEW_RECORDS, [*map(array, kinds, columns)])
    if not any(judged.batch.unless == "record" for judged in standing):
        return
    written = set(cursor.fetchall())
    for judged, own in zip(standing, rows, strict=True):
        keys = {row[:-1] for row in own}
        if judged.batch.unless == "record" and not keys & written:
            judged.end("skipped")
        written -= keys


def _skip_known_events(session: Session, group: Sequence[_Judged]) -> None:
    named = [judged for judged in _standing(group) if judged.batch.unless == "event"]
    if named:
        session.execute(_LOCK_LOG)  # no other worker writes one of them meanwhile
    known: set[str] = set()
    for judged in named:
        event_id = judged.batch.unless_id
        if event_id in known or table.knows(session, event_id):
            judged.end("skipped")
        known.add(event_id)


def _write_messages(session: Session, group: Sequence[_Judged], incarnation: str) -> None:
    rows: list[Row] = []
    for judged in _standing(group):
        sent = zip(judged.batch.messages, judged.numbers, judged.owners, strict=True)
        for (kind, name, _, remember, message, _), number, owner in sent:
            rows.append((number, kind, name, owner, owner == incarnation, remember, message))
    session.insert(MESSAGES, rows)
    for owner in {row[3] for row in rows} - {incarnation, ""}:
        session.notify("m", owner)


def _columns(refs: Iterable[Sequence[Any]]) -> Sequence[Any]:
    refs = list(refs)
    return array("text", [ref[0] for ref in refs]), array("text", [ref[1] for ref in refs])

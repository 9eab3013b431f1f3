"""Writes groups of batches, each group by one call of the server; each batch stands or falls by itself.

The function `mesh_commit`, which a migration makes, locks actors first, in one order for all workers, and
numbers events last, so that no two transactions wait for each other. Runs in the writer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from meshwright.events import table
from meshwright.events.table import Written
from meshwright.kernel.rows import delete_heads
from meshwright.sql.database import Row, Session, by_one_call

_LOCK_HEADS = """
    SELECT type, id, revision FROM heads
    WHERE (type, id) IN (SELECT * FROM unnest(?::text[], ?::text[])) ORDER BY type, id FOR UPDATE
"""

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
    taken_numbers: Sequence[int]
    records: Sequence[Row]
    messages: Sequence[tuple[str, str, str, bool, bool, bytes]]
    """Type and id of the receiver, an owner, whether it is for this owner alone, `remember`, and the message.

    Else it is for the owner of the messages that wait for that receiver, or of its record, if there is one.
    Without an owner (""), the message waits for a worker that runs the type.
    """
    events: Sequence[Row]
    unless: Unless
    """Skip the batch where its record, or the event of `unless_id`, is known."""
    unless_id: str


_EXPECTED = "text", "text", "bigint"
_REFS = "text", "text"
_HEADS = (
    *("boolean", "text", "text", "bigint", "text", "bigint"),
    *("double precision", "smallint", "bytea", "bytea", "text"),
)
_TAKEN = ("bigint",)
_RECORDS = "text", "text", "text", "bigint", "bytea"
_MESSAGES = "text", "text", "text", "boolean", "smallint", "bytea"


@by_one_call
def write_batches(
    session: Session, incarnation: str, batches: Sequence[Sequence[Any]]
) -> tuple[Sequence[BatchResult], Written | None, bool]:
    """Write batches, each the fields of a `BatchRows`; returns their results, and the numbers of events.

    Last whether a block of the log is full, so that `table.fill_blocks` is due.
    """
    group = [BatchRows(*rows) for rows in batches]
    heads: list[list[Row]] = []
    expected: list[Sequence[Row]] = []
    shifted: list[Sequence[Row]] = []
    for batch in group:
        revisions = {(kind, name): revision for kind, name, revision in batch.expected}
        heads.append([(not revisions[row[:2]], *row) for row in batch.heads])
        created = {row[1:3] for row in heads[-1] if row[0]}
        expected.append([row for row in batch.expected if row[:2] not in created])
        # An actor that was handed a task to offer has it in memory alone until it is claimed: it moves here
        # with the message, though it changed nothing.
        unchanged = revisions.keys() - {row[:2] for row in batch.heads} if batch.taken_numbers else ()
        shifted.append(sorted(unchanged))
    values = [
        incarnation,
        session.channel,
        *session.lists(("boolean",), [[batch.unless == "record" for batch in group]]),
        *_lists(session, _EXPECTED, expected),
        *_lists(session, _REFS, [batch.ahead for batch in group]),
        *_lists(session, _HEADS, heads),
        *_lists(session, _REFS, shifted),
        *_lists(session, _TAKEN, [[(n,) for n in batch.taken_numbers] for batch in group]),
        *_lists(session, _RECORDS, [batch.records for batch in group]),
        *_lists(session, _MESSAGES, [batch.messages for batch in group]),
        *_lists(session, table.SEALED_KINDS, [table.sealed_rows(session, batch.events) for batch in group]),
    ]
    [row] = session.call("mesh_commit", values).fetchall()
    ends, moved, there, numbers, owners, first_seq, dropped, fills = row
    results = _results(group, ends, moved, there, zip(numbers or (), owners or (), strict=True))
    return results, None if first_seq is None else (first_seq, dropped), bool(fills)


def _lists(session: Session, kinds: Sequence[str], rows_of: Sequence[Sequence[Row]]) -> Sequence[Any]:
    """Rows of batches as lists of their columns, behind a list of the numbers of their batches."""
    rows = [(n, *row) for n, rows in enumerate(rows_of, 1) for row in rows]
    columns = zip(*rows, strict=True) if rows else [()] * (1 + len(kinds))
    return session.lists(("smallint", *kinds), columns)


def _results(
    group: Sequence[BatchRows],
    ends: Sequence[str],
    moved: Sequence[str | None],
    there: Sequence[int] | None,
    placements: Iterable[tuple[int, str]],
) -> Sequence[BatchResult]:
    results: list[BatchResult] = []
    placement, remaining = iter(placements), set(there or ())
    for batch, end, actor in zip(group, ends, moved, strict=True):
        if end == "written":
            remaining.difference_update(batch.taken_numbers)
            placed = [next(placement) for _ in batch.messages]
            results.append((end, (), [n for n, _ in placed], [owner for _, owner in placed]))
        elif end == "taken":
            results.append((end, [n for n in batch.taken_numbers if n not in remaining], (), ()))
        else:
            results.append((end, actor.split("/", 1) if actor else (), (), ()))
    return results


def write_unless_known(
    session: Session, incarnation: str, batch: Sequence[Any]
) -> tuple[Sequence[BatchResult], Written | None, bool]:
    """Write a batch of an event from outside, unless the log has its id: as `write_batches` does for one."""
    table.lock(session)  # no other worker writes one of that id meanwhile
    if table.knows(session, BatchRows(*batch).unless_id):
        return [("skipped", (), (), ())], None, False
    return write_batches(session, incarnation, [batch])


def delete_locked(session: Session, heads: Sequence[tuple[str, str, int]]) -> list[tuple[str, str]]:
    """Delete the records of actors that are still at their revisions; returns the actors of those deleted."""
    columns = session.lists(_REFS, [[head[0] for head in heads], [head[1] for head in heads]])
    session.execute(_LOCK_HEADS, columns).fetchall()
    return delete_heads(session, heads)

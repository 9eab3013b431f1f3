"""Blocks: which keys occur in which 2,048 events.

An index of SQLite would cost each event an entry for each of its keys, and each random key a page of its
own. Here a key costs one entry for a block that it occurs in, however often, and those of a block are
written together and sorted when it is full. The last block, not yet full, is searched as a whole.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from meshwright.events.filter import KEYED, EventFilter
from meshwright.events.table import COLUMN_LIST, COLUMNS, Row, write_rows

BLOCK_BITS = 11
BLOCK_EVENTS = 1 << BLOCK_BITS
POSITIONS = tuple((kind, COLUMNS.index(kind)) for kind in KEYED)
SHORT = COLUMNS.index("extra")  # columns before it are short

SELECT_FROM = " ".join(("SELECT", COLUMN_LIST, "FROM events WHERE seq >= ? ORDER BY seq"))
SELECT_OPEN = "SELECT (SELECT max(block) + 1 FROM event_blocks), (SELECT min(seq) FROM events)"
SELECT_KEYED = "SELECT block FROM event_keys WHERE kind = ? AND key = ? AND block BETWEEN ? AND ?"
SELECT_TIMED = (
    "SELECT block FROM event_blocks WHERE max_time >= ? AND min_time <= ? AND block BETWEEN ? AND ?"
)
INTO_KEYS = "event_keys (kind, key, block)"
INTO_BLOCKS = "event_blocks (block, min_time, max_time, written_at)"
DELETE_KEYS = {
    kind: " ".join(
        (
            "DELETE FROM event_keys WHERE kind = ? AND block = ? AND key IN (SELECT",
            kind,
            "FROM events WHERE seq BETWEEN ? AND ?)",
        )
    )
    for kind in KEYED
}


def block_of(seq: int) -> int:
    """The block that an event lies in."""
    return seq >> BLOCK_BITS


def first_of(block: int) -> int:
    """The lowest `seq` of a block."""
    return block << BLOCK_BITS


def last_of(block: int) -> int:
    """The highest `seq` of a block."""
    return first_of(block + 1) - 1


class Blocks:
    """Fills blocks and writes down their keys and times. Used in the writer's thread alone."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._open: list[Row] = []

    def resume(self, connection: sqlite3.Connection, newest: int) -> None:
        """Take up the block that was not full when the log was last written to."""
        rows = connection.execute(SELECT_FROM, (first_of(block_of(newest + 1)),)).fetchall()
        self._open = [row[:SHORT] for row in rows]

    def add(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Take in rows that have just been written, in the order of `seq`."""
        self._open += [row[:SHORT] for row in rows]
        while self._open and block_of(self._open[0][0]) < block_of(self._open[-1][0] + 1):
            block = block_of(self._open[0][0])
            count = sum(row[0] <= last_of(block) for row in self._open)  # some of its numbers may be missing
            full, self._open = self._open[:count], self._open[count:]
            self._close(connection, block, full)

    def _close(self, connection: sqlite3.Connection, block: int, rows: Sequence[Row]) -> None:
        columns = list(zip(*rows, strict=True))
        keys = [
            (kind, key, block)
            for kind, position in sorted(POSITIONS)
            for key in sorted(set(columns[position]) - {None, ""})
        ]
        write_rows(connection, INTO_KEYS, keys, "ON CONFLICT DO NOTHING")
        times = columns[COLUMNS.index("time")]
        write_rows(connection, INTO_BLOCKS, [(block, min(times), max(times), self._now())])


def blocks_with(connection: sqlite3.Connection, wanted: EventFilter, first: int, last: int) -> list[int]:
    """The blocks from `first` to `last` that may hold wanted events, in the order of the filter."""
    after_full, oldest = connection.execute(SELECT_OPEN).fetchone()  # first: a block may be filled meanwhile
    unfilled = after_full or block_of(oldest or 0)
    found = [
        {block for (block,) in connection.execute(SELECT_KEYED, (kind, key, first, last)).fetchall()}
        for kind, key in wanted.exact().items()
        if kind in KEYED
    ]
    if not found or wanted.timed:
        bounds = (*wanted.period(), first, last)
        found.append({block for (block,) in connection.execute(SELECT_TIMED, bounds).fetchall()})
    blocks = set.intersection(*found) | set(range(max(first, unfilled), last + 1))
    return sorted(blocks, reverse=wanted.order == "desc")


def delete_block(connection: sqlite3.Connection, block: int) -> int:
    """Delete a block with its events; returns how many those were."""
    first, last = first_of(block), last_of(block)
    for kind in KEYED:
        connection.execute(DELETE_KEYS[kind], (kind, block, first, last))
    connection.execute("DELETE FROM event_blocks WHERE block = ?", (block,))
    return connection.execute("DELETE FROM events WHERE seq BETWEEN ? AND ?", (first, last)).rowcount

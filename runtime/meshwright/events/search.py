"""Reading the log: a bounded amount at a time, so that no reader keeps the writer or the others waiting."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from meshwright.events.blocks import block_of, blocks_with, first_of, last_of
from meshwright.events.filter import EventFilter
from meshwright.events.table import COLUMN_LIST, COLUMNS, Row, event_of
from meshwright.messages import Event

MAX_BLOCKS = 4096  # looked up in one go
MAX_BLOCKS_READ = 32  # read in one go: some 30 ms
MAX_BYTES_READ = 4 * 1024 * 1024  # of payloads
PAYLOAD = COLUMNS.index("payload")

SELECT_OWN = "SELECT 1 FROM events WHERE seq BETWEEN ? AND ? AND aggregate_id = ? AND own_id = ?"


class Found(NamedTuple):
    """Wanted events, and the `seq` up to which (downwards: down to which) there are no others.

    `size` is what their payloads have together, in bytes of JSON.
    """

    events: list[Event]
    reached: int
    size: int


def search(
    connection: sqlite3.Connection,
    wanted: EventFilter,
    first: int,
    last: int,
    limit: int,
    max_bytes: int = MAX_BYTES_READ,
) -> Found:
    """Look for events from `first` to `last`, in the filter's order, a bounded way along.

    It ends with the event that makes them `limit`, or their payloads `max_bytes`.
    """
    down = wanted.order == "desc"
    if down:
        first = max(first, first_of(block_of(last) - MAX_BLOCKS + 1))
    else:
        last = min(last, last_of(block_of(first) + MAX_BLOCKS - 1))
    blocks = blocks_with(connection, wanted, block_of(first), block_of(last))
    events: list[Event] = []
    size = 0
    for low, high in _runs(blocks[:MAX_BLOCKS_READ]):
        for row in _rows(connection, wanted, max(first, low), min(last, high), limit - len(events)):
            events.append(event_of(row))
            size += len(row[PAYLOAD])
            if len(events) == limit or size >= max_bytes:
                return Found(events, events[-1].seq or 0, size)
    if len(blocks) <= MAX_BLOCKS_READ:
        return Found(events, first if down else last, size)
    reached = blocks[MAX_BLOCKS_READ - 1]
    return Found(events, first_of(reached) if down else last_of(reached), size)


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring blocks joined: the lowest and the highest `seq` of each run, in the blocks' order."""
    start = 0
    for index in range(1, len(blocks) + 1):
        if index == len(blocks) or abs(blocks[index] - blocks[index - 1]) > 1:
            low, high = sorted((blocks[start], blocks[index - 1]))
            yield first_of(low), last_of(high)
            start = index


def _rows(
    connection: sqlite3.Connection, wanted: EventFilter, first: int, last: int, limit: int
) -> Iterator[Row]:
    exact = wanted.exact()
    conditions = ["seq BETWEEN :first AND :last", *(f"{name} = :{name}" for name in exact)]
    parameters = {"first": first, "last": last, "limit": limit, **exact}
    if wanted.timed:
        conditions.append("time BETWEEN :since AND :until")
        parameters["since"], parameters["until"] = wanted.period()
    order = "ORDER BY seq DESC" if wanted.order == "desc" else "ORDER BY seq"
    query = ("SELECT", COLUMN_LIST, "FROM events WHERE", " AND ".join(conditions), order, "LIMIT :limit")
    return connection.execute(" ".join(query), parameters)


def has_own_id(connection: sqlite3.Connection, event_id: str, newest: int) -> bool:
    """Whether the log has an event whose id is of the form `{type}/{id}/{own id}`."""
    parts = event_id.split("/")
    for cut in range(2, len(parts)):
        aggregate_id, own = "/".join(parts[:cut]), "/".join(parts[cut:])
        wanted = EventFilter(aggregate_id=aggregate_id, order="desc")
        for block in blocks_with(connection, wanted, 0, block_of(newest)):
            bounds = (first_of(block), last_of(block), aggregate_id, own)
            if connection.execute(SELECT_OWN, bounds).fetchone() is not None:
                return True
    return False

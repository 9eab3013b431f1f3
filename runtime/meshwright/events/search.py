"""Reading the log: a bounded amount at a time, so that no reader keeps the writer or the others waiting."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from meshwright.events.blocks import block_of, blocks_with, first_of, last_of
from meshwright.events.filter import EventFilter
from meshwright.events.table import COLUMN_LIST, event_of
from meshwright.messages import Event

MAX_BLOCKS = 4096  # looked up in one go
MAX_BLOCKS_READ = 32  # read in one go: some 30 ms

SELECT_OWN = "SELECT 1 FROM events WHERE seq BETWEEN ? AND ? AND aggregate_id = ? AND own_id = ?"


class Found(NamedTuple):
    """Wanted events, and the `seq` up to which (downwards: down to which) there are no others."""

    events: list[Event]
    reached: int


def search(connection: sqlite3.Connection, wanted: EventFilter, first: int, last: int, limit: int) -> Found:
    """Look for up to `limit` events from `first` to `last`, in the filter's order, a bounded way along."""
    down = wanted.order == "desc"
    if down:
        first = max(first, first_of(block_of(last) - MAX_BLOCKS + 1))
    else:
        last = min(last, last_of(block_of(first) + MAX_BLOCKS - 1))
    blocks = blocks_with(connection, wanted, block_of(first), block_of(last))
    events: list[Event] = []
    for low, high in _runs(blocks[:MAX_BLOCKS_READ]):
        events += _read(connection, wanted, max(first, low), min(last, high), limit - len(events))
        if len(events) == limit:
            return Found(events, events[-1].seq or 0)
    if len(blocks) <= MAX_BLOCKS_READ:
        return Found(events, first if down else last)
    reached = blocks[MAX_BLOCKS_READ - 1]
    return Found(events, first_of(reached) if down else last_of(reached))


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring blocks joined: the lowest and the highest `seq` of each run, in the blocks' order."""
    start = 0
    for index in range(1, len(blocks) + 1):
        if index == len(blocks) or abs(blocks[index] - blocks[index - 1]) > 1:
            low, high = sorted((blocks[start], blocks[index - 1]))
            yield first_of(low), last_of(high)
            start = index


def _read(
    connection: sqlite3.Connection, wanted: EventFilter, first: int, last: int, limit: int
) -> list[Event]:
    exact = wanted.exact()
    conditions = ["seq BETWEEN :first AND :last", *(f"{name} = :{name}" for name in exact)]
    parameters = {"first": first, "last": last, "limit": limit, **exact}
    if wanted.timed:
        conditions.append("time BETWEEN :since AND :until")
        parameters["since"], parameters["until"] = wanted.period()
    order = "ORDER BY seq DESC" if wanted.order == "desc" else "ORDER BY seq"
    query = ("SELECT", COLUMN_LIST, "FROM events WHERE", " AND ".join(conditions), order, "LIMIT :limit")
    return [event_of(row) for row in connection.execute(" ".join(query), parameters).fetchall()]


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

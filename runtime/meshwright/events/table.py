"""The rows of the log: how an event becomes one, and a row an event again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from meshwright.encoding import decode, encode
from meshwright.events.filter import seconds
from meshwright.messages import Event
from meshwright.storage.rows import MAX_ROWS, insert_rows

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
INTO = f"events ({COLUMN_LIST})"
UNBINDABLE = (UnicodeEncodeError, OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError)

MAX_INTEGER = 2**63 - 1  # of SQLite

Row = tuple[Any, ...]
_same = itemgetter(*SAME)


def own_id(event: Event) -> str | None:
    """What an id of the form `{type}/{id}/{own id}` ends with, the event being of actor `{type}/{id}`.

    None for any other id.
    """
    actor = event.aggregate_id
    if "/" not in actor or not event.id.startswith(f"{actor}/"):
        return None
    return event.id[len(actor) + 1 :]


def row_of(event: Event, own: str | None) -> Row:
    """An event that has its number, as the columns of its row."""
    fields = event.__dict__
    extra = event.__pydantic_extra__
    return (
        fields["seq"],
        seconds(fields["time"]),
        *_same(fields),
        own,
        fields["id"] if own is None else None,
        fields["idempotency_key"],
        encode(extra) if extra else None,
        bytes(encode(fields["payload"])),
    )


def event_of(row: Row) -> Event:
    """A row as an event again; its payload is plain data."""
    fields = dict(zip(COLUMNS, row, strict=True))
    own, other, extra = fields.pop("own_id"), fields.pop("other_id"), fields.pop("extra")
    fields["id"] = f"{fields['aggregate_id']}/{own}" if other is None else other
    fields["time"] = datetime.fromtimestamp(fields["time"], UTC)
    fields["payload"] = decode(fields["payload"])
    if extra is not None:
        fields = {**decode(extra), **fields}
    return Event.model_validate(fields)


def write_rows(connection: sqlite3.Connection, into: str, rows: Sequence[Row], then: str = "") -> None:
    """Insert rows whatever is in them: a value that SQLite cannot take is replaced by one that it can."""
    for start in range(0, len(rows), MAX_ROWS):
        chunk = rows[start : start + MAX_ROWS]
        try:
            insert_rows(connection, into, len(chunk[0]), chunk, then=then)
        except UNBINDABLE:  # raised while binding: nothing of the chunk has been written
            insert_rows(connection, into, len(chunk[0]), [_bindable(row) for row in chunk], then=then)


def _bindable(row: Row) -> Row:
    return tuple(map(_bindable_value, row))


def _bindable_value(value: Any) -> Any:
    if value is None or isinstance(value, float | bytes):
        return value
    if isinstance(value, int):
        return max(-MAX_INTEGER - 1, min(value, MAX_INTEGER))
    return str(value).encode(errors="replace").decode()


def known_ids(connection: sqlite3.Connection, ids: Iterable[str]) -> set[str]:
    """Those of some ids that are in the log as a whole."""
    wanted = list(ids)
    known: set[str] = set()
    for start in range(0, len(wanted), MAX_ROWS):
        chunk = wanted[start : start + MAX_ROWS]
        marks = ",".join("?" * len(chunk))
        query = " ".join(("SELECT other_id FROM events WHERE other_id IN (", marks, ")"))
        known.update(each for (each,) in connection.execute(query, chunk))
    return known

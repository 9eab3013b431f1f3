"""A store about itself: notes in its table `meta`, like where it has gone, and its tables with their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from meshwright.core.errors import StoreMoved
from meshwright.engine.sql.database import Row, Session

HELD = "held"
"""The work of a restored store waits to be released: `made_at`, `open_tasks` and `last_seq` of the backup."""
UNFINISHED = "unfinished"
"""A migration fills the store: its `id`, and the store that it comes `from`."""
MOVED = "moved"
"""The store was migrated: the `id` of the migration, and the store that it went `to`."""
DELETED = "deleted"
"""Text was deleted for good that may still be in free pages of the file."""


def read_note(session: Session, name: str) -> dict[str, Any] | None:
    """A note, None where there is none."""
    row = session.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return from_json(row[0]) if row else None


def write_note(session: Session, name: str, note: Mapping[str, Any]) -> None:
    """Write a note in place of the one before."""
    insert = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    session.execute(insert, (name, to_json(note).decode()))


def delete_note(session: Session, name: str, note: Mapping[str, Any] | None = None) -> None:
    """Remove a note; with `note`, only if it has not been written again since."""
    if note is None or read_note(session, name) == note:
        session.execute("DELETE FROM meta WHERE name = ?", (name,))


def refuse_if_moved(session: Session, location: str) -> None:
    """Raise StoreMoved for a store whose tasks go on elsewhere, or that a migration has not filled yet."""
    if note := read_note(session, UNFINISHED):
        raise StoreMoved(
            f"{location} is unfinished: a migration from {note['from']} broke off",
            remedy="run the same mesh migrate again",
        )
    if note := read_note(session, MOVED):
        raise StoreMoved(
            f"{location} was migrated to {note['to']}, where its tasks go on",
            remedy="start the mesh there, or take the store back: mesh migrate --reopen --from STORE",
        )


_COLUMNS = {
    "sqlite": """
        SELECT tables.name, columns.name, 1
        FROM pragma_table_list AS tables, pragma_table_info(tables.name) AS columns
        WHERE tables.schema = 'main' AND tables.type = 'table' AND tables.name NOT LIKE 'sqlite%'
        ORDER BY tables.name, columns.cid
    """,
    "postgres": """
        SELECT relname, attname, attidentity <> 'a' FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
        WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
        AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY relname, attnum
    """,
}
_SEQUENCES = """
    SELECT relname, attname, pg_get_serial_sequence(pg_class.oid::regclass::text, attname)
    FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
    AND attnum > 0 AND NOT attisdropped AND attidentity <> 'a'
    AND pg_get_serial_sequence(pg_class.oid::regclass::text, attname) IS NOT NULL
"""
_MAX_ROWS, _MAX_BYTES = 1_000, 4 * 1024 * 1024  # written at once


class TableColumns(NamedTuple):
    """The columns of a table that are not computed, and among them the columns that take a value."""

    columns: Sequence[str]
    writable: Sequence[str]


def read_tables(session: Session) -> dict[str, TableColumns]:
    """The tables of a database by name, but for tables of an index."""
    columns_of: dict[str, list[tuple[str, bool]]] = {}
    for table, column, takes_values in session.execute(_COLUMNS[session.dialect]).fetchall():
        columns_of.setdefault(table, []).append((column, bool(takes_values)))
    return {
        table: TableColumns(
            [name for name, _ in columns], [name for name, takes_values in columns if takes_values]
        )
        for table, columns in columns_of.items()
    }


def copy_rows(rows: Iterable[Row], target: Session, into: str, on_written: Callable[[int], None]) -> None:
    """Insert rows, some at a time; `written` is called with how many."""
    for batch in _batches(rows):
        target.insert(into, batch)
        on_written(len(batch))


def set_sequences(session: Session) -> None:
    """Have the sequences of PostgreSQL go on behind the values that were inserted."""
    for table, column, sequence in session.execute(_SEQUENCES).fetchall():
        select = f"SELECT setval('{sequence}', max({column})) FROM {table} HAVING max({column}) > 0"  # noqa: S608 names in code
        session.execute(select)


def _batches(rows: Iterable[Row]) -> Iterator[Sequence[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum([len(value) for value in row if isinstance(value, bytes | str)])
        if len(batch) == _MAX_ROWS or size > _MAX_BYTES:
            yield batch
            batch, size = list[Row](), 0
    if batch:
        yield batch
